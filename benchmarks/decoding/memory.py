"""Memory of one decoding thread: how much a process grows while it decodes the largest image that is let in.

    python -m benchmarks.decoding.memory              measures, each kind of file in a process of its own
    python -m benchmarks.decoding.memory --record     and writes docs/results/decoding_memory.json
    python -m benchmarks.decoding.memory --table      what is recorded, as Markdown

The figure is the growth of the peak (VmHWM in /proc/self/status) from before the file is decoded to after, per pixel.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from latentserve import records
from latentserve.depth import SMAX_SAMPLE_VALUE, SMIN_SAMPLE_VALUE
from latentserve.image_files import PNG_SIGNATURE
from service.config import Config

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "decoding_memory.json"
ORIENTATION, QUARTER_TURN = 0x0112, 6
KINDS = (
    *("JPEG RGB", "JPEG RGB, turned", "PNG grey", "PNG grey, 16 bits", "PNG RGB", "PNG RGBA", "PNG RGBA, 16 bits"),
    *("WEBP RGB", "BMP RGB", "TIFF RGB", "TIFF grey, float"),
)


@dataclass(frozen=True)
class Options:
    """Decodes one large image of each kind.

    Attributes:
        pixels: size of the image in pixels; default: `max_item_pixels` of the service.
        record: write docs/results/decoding_memory.json.
        table: print what is recorded, decode nothing.
    """

    pixels: int = Config.model_fields["max_item_pixels"].default
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Growth:
    """Of one kind of file.

    Attributes:
        kind: of it.
        pixels: of the image.
        file_bytes: of it; they are held besides.
        grown_bytes: of the process's peak.
    """

    kind: str
    pixels: int
    file_bytes: int
    grown_bytes: int


@dataclass(frozen=True)
class Results:
    """What was measured."""

    growths: tuple[Growth, ...]


def main(options: Options) -> int:
    """Measures, and prints a table; returns the exit status."""
    if options.table:
        found = records.read(Results, RESULTS)
    else:
        found = Results(tuple(measured(kind, options.pixels) for kind in KINDS))
    print("\n".join(table(found)))
    if options.record:
        records.write(found, RESULTS)
    return 0


def table(found: Results) -> list[str]:
    """As Markdown."""
    head = ["| file | pixels | MiB of one thread | bytes a pixel |", "| --- | --- | --- | --- |"]
    return head + [
        f"| {one.kind} | {one.pixels:,} | {one.grown_bytes / 2**20:.0f} | {one.grown_bytes / one.pixels:.1f} |"
        for one in found.growths
    ]


def measured(kind: str, pixels: int) -> Growth:
    """Writes a file of this kind and has it decoded by a process that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        side = write(kind, pixels, file)
        command = [sys.executable, "-m", "benchmarks.decoding.memory", "decode", str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return Growth(kind, side**2, file.stat().st_size, int(done.stdout))


def write(kind: str, pixels: int, file: Path) -> int:
    """A square of stripes, as large as asked for at most; returns its side."""
    side = int(pixels**0.5)
    stripes = np.broadcast_to((np.arange(side) % 256).astype(np.uint8), (side, side))
    options: dict[str, Any] = {}
    if kind == "PNG RGBA, 16 bits":
        file.write_bytes(deep_png(np.repeat(stripes[0], 8).tobytes(), side))
        return side
    if kind == "TIFF grey, float":
        options["tiffinfo"] = {SMIN_SAMPLE_VALUE: 0.0, SMAX_SAMPLE_VALUE: 255.0}
    if kind == "PNG grey, 16 bits":
        image = Image.fromarray(stripes.astype(np.uint16) * 257)
    elif kind == "TIFF grey, float":
        image = Image.fromarray(stripes.astype(np.float32))
    else:
        grey = Image.fromarray(np.ascontiguousarray(stripes))
        image = grey if kind == "PNG grey" else grey.convert("RGBA" if kind == "PNG RGBA" else "RGB")
    if kind.endswith("turned"):
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = QUARTER_TURN
    image.save(file, kind.split()[0], **options)
    return side


def deep_png(row: bytes, side: int) -> bytes:
    """A PNG of 16-bit RGBA, each of its rows the same, which Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(b"\0" + row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def decode(file: Path) -> int:
    """By how many bytes this process's peak grows while it decodes the file as the service would."""
    from latentserve.images import decode_image
    from latentserve.inputs import ImageInput

    data = file.read_bytes()
    decode_image(small(), ImageInput(8, 8, 3), 1)  # what is loaded once is not counted
    before = peak_bytes()
    decode_image(data, ImageInput(224, 224, 3), 10**10)
    return peak_bytes() - before


def small(side: int = 1) -> bytes:
    """A file of one pixel, or of few."""
    buffer = io.BytesIO()
    Image.new("RGB" if side == 1 else "L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kibibytes) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["decode"]:
        print(decode(Path(sys.argv[2])))
        sys.exit(0)
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.decoding.memory")))
