"""Files that nobody here made: which are taken, which are rejected and why, and does another decoder see the same?

    python -m benchmarks.decoding.odd_files pillow=path/to/Tests/images libpng=path/to/libpng --record

Every image and sound under the folders goes through the one function that decodes it in training and in the service,
and through every other decoder that is installed: OpenCV (`pip install opencv-python-headless`), torchvision, pypng and
tifffile for images, libsndfile read whole and scipy for sounds. A line for each file, a table for each folder. The
JPEGs that were taken are then damaged in their middle, and it is counted how many are still taken.

What is recorded in docs/results/odd_files.json was made of the test files of Pillow 13.0.0, libpng 1.6.39, soundfile,
scipy 1.17.1, go-audio/wav and the IETF's FLAC decoder testbench.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.decoding.damage import Heard, heard
from benchmarks.decoding.decoders import IMAGE_ORACLES, SOUND_ORACLES
from latentserve import records
from latentserve.audio import SUFFIXES as SOUNDS
from latentserve.audio import AudioError, decode_audio, sample_rate_of
from latentserve.images import SUFFIXES as IMAGES
from latentserve.images import ImageError, decode_image
from latentserve.inputs import ImageInput
from training.data.decoding import MAX_PIXELS

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "odd_files.json"
DAMAGED_FILES = 1000
EQUAL_LEVELS = 2
"""Of 255: products with opacity are rounded once or twice, and 16 bits become 8 by rounding or by cutting."""
EQUAL_SAMPLES = 2
"""Of 65,536: two channels of 24 bits are cut to 16 and averaged, or averaged and rounded."""


@dataclass(frozen=True)
class Options:
    """Decodes every file of some folders and compares.

    Attributes:
        folders: folders of test files, each as NAME=PATH.
        record: write docs/results/odd_files.json.
    """

    folders: Annotated[tuple[str, ...], tyro.conf.Positional]
    record: bool = False


@dataclass(frozen=True)
class Compared:
    """What one other decoder makes of the files that were taken.

    Attributes:
        equal: number of files, within EQUAL_LEVELS or EQUAL_SAMPLES.
        differ: largest difference, by file.
        unread: number of files that it does not read.
    """

    equal: int = 0
    differ: dict[str, float] = field(default_factory=dict)
    unread: int = 0


@dataclass(frozen=True)
class Package:
    """One folder.

    Attributes:
        name: of the package.
        files: images and sounds in it.
        taken: of them.
        agreed: of those taken, equal to at least one other decoder.
        rejected: number of files by reason.
        decoders: what the others say of the files that were taken.
        damaged: what becomes of the JPEGs among them, up to DAMAGED_FILES, by kind of damage.
    """

    name: str
    files: int
    taken: int
    agreed: int
    rejected: dict[str, int]
    decoders: dict[str, Compared]
    damaged: dict[str, Heard]


@dataclass(frozen=True)
class Figures:
    """What is recorded."""

    packages: tuple[Package, ...]


def main(options: Options) -> int:
    """Prints the lines and the tables."""
    warnings.simplefilter("ignore")  # what other decoders say of odd files
    packages = [examined(name, Path(path)) for name, _, path in (given.partition("=") for given in options.folders)]
    for package in packages:
        _print(package)
    if options.record:
        records.write(Figures(tuple(packages)), RESULTS)
        print(RESULTS)
    return 0


def examined(name: str, folder: Path) -> Package:
    """Every image and sound under a folder, at any depth."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES | SOUNDS and path.is_file())
    decoders: dict[str, Compared] = {}
    rejected: Counter[str] = Counter()
    taken = agreed = 0
    jpegs: list[bytes] = []
    for file in files:
        shown = records.printable(str(file.relative_to(folder)))
        is_sound = file.suffix.lower() in SOUNDS
        data = file.read_bytes()
        try:
            differences = _differences(data, is_sound)
        except (ImageError, AudioError) as error:
            rejected[_reason(str(error))] += 1
            print(f"{name}/{shown}: rejected: {error}")
            continue
        taken += 1
        jpegs += [data] if data.startswith(b"\xff\xd8") else []
        limit = EQUAL_SAMPLES if is_sound else EQUAL_LEVELS
        agreed += any(gap is not None and gap <= limit for gap in differences.values())
        for decoder, gap in differences.items():
            _count(decoders, decoder, shown, gap, limit)
        said = [
            f"{decoder} {'does not read it' if gap is None else f'{gap:.3g}'}" for decoder, gap in differences.items()
        ]
        print(f"{name}/{shown}: taken: {', '.join(said)}")
    return Package(
        name, len(files), taken, agreed, dict(rejected.most_common()), decoders, heard(jpegs[:DAMAGED_FILES])
    )


def _count(decoders: dict[str, Compared], decoder: str, file: str, gap: float | None, limit: float) -> None:
    so_far = decoders.get(decoder, Compared())
    if gap is not None and gap > limit:
        so_far.differ[file] = round(gap, 1)
    decoders[decoder] = Compared(
        so_far.equal + (gap is not None and gap <= limit), so_far.differ, so_far.unread + (gap is None)
    )


def _differences(data: bytes, is_sound: bool) -> dict[str, float | None]:
    """Largest difference to every other decoder, None where it does not read the file."""
    if is_sound:
        decode_audio(data, rate := sample_rate_of(data), rate)
    else:
        decode_image(data, ImageInput(8, 8, 3), MAX_PIXELS)
    found: dict[str, float | None] = {}
    for name, (module, oracle) in (SOUND_ORACLES if is_sound else IMAGE_ORACLES).items():
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        try:
            other = oracle(data)
        except Exception:  # other decoders fail in their own ways
            found[name] = None
            continue
        ours: NDArray[Any] = decode_audio(data, rate, len(other)) if is_sound else _at_size_of(other, data)
        found[name] = float(np.abs(ours - other).max())
    return found


def _at_size_of(pixels: NDArray[Any], data: bytes) -> NDArray[np.uint8]:
    return decode_image(data, ImageInput(pixels.shape[0], pixels.shape[1], 3), MAX_PIXELS)


def _reason(error: str) -> str:
    """The kind of a rejection: without its numbers and bytes."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"b'.*?', |b\".*?\", ", "..., ", error))


def _print(package: Package) -> None:
    title = (
        f"{package.name}: {package.taken} of {package.files} files taken, {package.agreed} agreed with another decoder"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("", "files"):
        table.add_column(heading, overflow="fold")
    for name, compared in package.decoders.items():
        table.add_row(f"equal to {name}", str(compared.equal))
        table.add_row(f"not read by {name}", str(compared.unread))
        table.add_row(
            f"other than {name}", "\n".join(f"{file}: {gap:g}" for file, gap in compared.differ.items()) or "0"
        )
    for reason, count in package.rejected.items():
        table.add_row(f"rejected: {reason}", str(count))
    for kind, found in package.damaged.items() if any(found.spoilt for found in package.damaged.values()) else ():
        table.add_row(f"JPEGs spoilt by {kind}, rejected", f"{found.rejected} of {found.spoilt}")
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.decoding.odd_files")))
