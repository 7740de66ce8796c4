"""What decoding costs: CPU time of one thread, of each kind of file, whole and by its header alone.

    python -m benchmarks.decoding.cost              measures
    python -m benchmarks.decoding.cost --record     and writes docs/results/decoding_cost.json
    python -m benchmarks.decoding.cost --table      what is recorded, as Markdown

`max_request_pixels` and `max_decoding_pixels` are chosen by it, and so are the weights in
`service.scheduling.decoding_queue`. The least of several times is taken: what else the machine does only adds.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from benchmarks.decoding import memory as decoding_memory
from latentserve import records
from latentserve.images import decode_image, image_pixels
from latentserve.inputs import ImageInput
from service.config import Config

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "decoding_cost.json"
PHOTO, SMALL = "JPEG RGB, photo", "PNG grey, 8 x 8"
WIDTH, HEIGHT = 4000, 3000
"""Of a photo of 12 megapixels."""
TIMES = 3


@dataclass(frozen=True)
class Options:
    """Decodes files of 12 megapixels.

    Attributes:
        record: write docs/results/decoding_cost.json.
        table: print what is recorded, decode nothing.
    """

    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Cost:
    """Of one kind of file.

    Attributes:
        kind: of it.
        pixels: of the image.
        file_bytes: of it.
        cpu_ms: to decode it.
        header_us: to read its size.
    """

    kind: str
    pixels: int
    file_bytes: int
    cpu_ms: float
    header_us: float


@dataclass(frozen=True)
class Results:
    """What was measured."""

    costs: tuple[Cost, ...]


def main(options: Options) -> int:
    """Measures, and prints a table; returns the exit status."""
    found = records.read(Results, RESULTS) if options.table else Results(tuple(map(measured, (PHOTO, *kinds(), SMALL))))
    most = Config.model_fields["max_request_pixels"].default
    print("| file | pixels | bytes | ms of CPU | header us | ns a pixel | seconds of `max_request_pixels` |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in found.costs:
        by_pixel = one.cpu_ms * 1e6 / one.pixels
        whole = f"{by_pixel * most / 1e9:.1f}" if one.kind != SMALL else ""
        print(
            f"| {one.kind} | {one.pixels:,} | {one.file_bytes:,} | {one.cpu_ms:.2f} | {one.header_us:.0f} |"
            f" {by_pixel:.1f} | {whole} |"
        )
    if options.record:
        records.write(found, RESULTS)
    return 0


def kinds() -> tuple[str, ...]:
    """Those whose memory is measured, too."""
    return decoding_memory.KINDS


def measured(kind: str) -> Cost:
    """Writes a file of this kind and decodes it."""
    data = photo() if kind == PHOTO else decoding_memory.small(8) if kind == SMALL else striped(kind)
    pixels = image_pixels(data, 10**10)
    times = TIMES if pixels > 10**6 else 1000
    side = 8 if kind == SMALL else 224
    cpu = least(lambda: decode_image(data, ImageInput(side, side, 3), 10**10), times)
    return Cost(kind, pixels, len(data), cpu * 1e3, least(lambda: image_pixels(data, 10**10), 20) * 1e6)


def striped(kind: str) -> bytes:
    """As in `decoding_memory`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        decoding_memory.write(kind, WIDTH * HEIGHT, file)
        return file.read_bytes()


def photo() -> bytes:
    """Colours that change smoothly, as much as a camera's: 3 MB."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def least(work: Callable[[], object], times: int) -> float:
    """Seconds of this thread's CPU."""
    best = float("inf")
    for _ in range(times):
        before = time.thread_time()
        work()
        best = min(best, time.thread_time() - before)
    return best


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.decoding.cost")))
