"""Files that nobody here made: which are taken, which are refused and why, and does another decoder see the same?

    python -m benchmarks.odd_files pillow=path/to/Tests/images libpng=path/to/libpng --record

Every image and sound under the folders goes through the one function that decodes it in training and in the service, and
through every other decoder that is installed: OpenCV (`pip install opencv-python-headless`), torchvision, pypng and
tifffile for images, libsndfile read whole and scipy for sounds. A line for each file, a table for each folder. What is recorded
in docs/results/odd_files.json was made of the test files of Pillow, libpng, soundfile, scipy, go-audio and the IETF's FLAC.
"""

from __future__ import annotations

import importlib
import io
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from latentserve import records
from latentserve.audio import SUFFIXES as SOUNDS
from latentserve.audio import AudioError, decode_audio, sample_rate_of
from latentserve.image_files import PNG_SIGNATURE
from latentserve.images import SUFFIXES as IMAGES
from latentserve.images import ImageError, decode_image
from training.data.decoding import MAX_PIXELS

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "odd_files.json"
EQUAL_LEVELS = 2
"""Of 255: products with opacity are rounded once or twice, and 16 bits become 8 by rounding or by cutting."""
EQUAL_SAMPLES = 2
"""Of 65,536: two channels of 24 bits are cut to 16 and averaged, or averaged and rounded."""


@dataclass(frozen=True)
class Options:
    """Decodes every file of some folders and compares.

    Attributes:
        folders: NAME=PATH, each a package's test files.
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
        refused: number of files by reason.
        decoders: what the others say of the files that were taken.
    """

    name: str
    files: int
    taken: int
    agreed: int
    refused: dict[str, int]
    decoders: dict[str, Compared]


@dataclass(frozen=True)
class Figures:
    """What is recorded."""

    packages: tuple[Package, ...]


Oracle = Callable[[bytes], NDArray[Any]]


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
    refused: Counter[str] = Counter()
    taken = agreed = 0
    for file in files:
        shown = records.printable(str(file.relative_to(folder)))
        is_sound = file.suffix.lower() in SOUNDS
        data = file.read_bytes()
        try:
            differences = _differences(data, is_sound)
        except (ImageError, AudioError) as error:
            refused[_reason(str(error))] += 1
            print(f"{name}/{shown}: refused: {error}")
            continue
        taken += 1
        limit = EQUAL_SAMPLES if is_sound else EQUAL_LEVELS
        agreed += any(gap is not None and gap <= limit for gap in differences.values())
        for decoder, gap in differences.items():
            _count(decoders, decoder, shown, gap, limit)
        said = [
            f"{decoder} {'does not read it' if gap is None else f'{gap:.3g}'}" for decoder, gap in differences.items()
        ]
        print(f"{name}/{shown}: taken: {', '.join(said)}")
    return Package(name, len(files), taken, agreed, dict(refused.most_common()), decoders)


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
        decode_image(data, 8, 8, 3, MAX_PIXELS)
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
    return decode_image(data, pixels.shape[0], pixels.shape[1], 3, MAX_PIXELS)


def _reason(error: str) -> str:
    """The kind of a refusal: without its numbers and bytes."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"b'.*?', |b\".*?\", ", "..., ", error))


def _on_black(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Float64 [H, W, 3], 0 to 255, of grey or RGB with or without opacity, in eight or 16 bits."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"got {pixels.dtype}, expected what states its range")
    levels = pixels.reshape(*pixels.shape[:2], -1) * (255 / np.iinfo(pixels.dtype).max)
    num_channels = levels.shape[-1]
    colours = levels[..., :-1] * levels[..., -1:] / 255 if num_channels in (2, 4) else levels
    if num_channels > 4:
        raise ValueError(f"got {num_channels} channels, expected 1 to 4")
    return np.repeat(colours, 3, axis=-1) if num_channels < 3 else colours


def _opencv(data: bytes) -> NDArray[np.float64]:
    import cv2

    raw = np.frombuffer(data, np.uint8)
    pixels = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    if pixels.shape[2:] in ((), (3,)) and pixels.dtype == np.uint8:
        return _on_black(cv2.imdecode(raw, cv2.IMREAD_COLOR)[..., ::-1])  # turned by its EXIF
    return _on_black(pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]])


def _torchvision(data: bytes) -> NDArray[np.float64]:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    is_png = data.startswith(PNG_SIGNATURE)
    has_opacity = (is_png and (data[25] >= 4 or b"tRNS" in data)) or data[8:12] == b"WEBP"  # 25: the colour type
    mode = ImageReadMode.RGB_ALPHA if has_opacity else ImageReadMode.RGB  # asked of others it gives wrong colours
    pixels_CHW = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode, apply_exif_orientation=True)
    return _on_black(pixels_CHW.permute(1, 2, 0).numpy())


def _pypng(data: bytes) -> NDArray[np.float64]:
    import png

    width, height, rows, _ = png.Reader(bytes=data).asRGBA8()
    return _on_black(np.array([list(row) for row in rows], np.uint8).reshape(height, width, 4))


def _tifffile(data: bytes) -> NDArray[np.float64]:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        if page.photometric not in (1, 2) or page.tags.get("Orientation", None) not in (None, 1):
            raise ValueError("tifffile gives samples as they lie in the file")
        return _on_black(page.asarray())


def _libsndfile(data: bytes) -> NDArray[np.float64]:
    import soundfile

    samples_TC, _ = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
    return np.clip(samples_TC.mean(axis=1) * 32768, -32768, 32767)


def _scipy(data: bytes) -> NDArray[np.float64]:
    from scipy.io import wavfile

    _, samples = wavfile.read(io.BytesIO(data))
    if samples.dtype.kind == "u":
        samples = (samples.astype(np.int16) - 128) << 8
    scaled = samples.astype(np.float64) * (
        32768 if samples.dtype.kind == "f" else 2 ** (16 - 8 * samples.dtype.itemsize)
    )
    return np.clip(scaled.reshape(len(scaled), -1).mean(axis=1), -32768, 32767)


IMAGE_ORACLES: dict[str, tuple[str, Oracle]] = {
    "opencv": ("cv2", _opencv),
    "torchvision": ("torchvision", _torchvision),
    "pypng": ("png", _pypng),
    "tifffile": ("tifffile", _tifffile),
}
SOUND_ORACLES: dict[str, tuple[str, Oracle]] = {
    "libsndfile, whole": ("soundfile", _libsndfile),
    "scipy": ("scipy", _scipy),
}
"""By name: the module that must be there, and what turns a file into RGB on black, or one channel of 16-bit samples."""


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
    for reason, count in package.refused.items():
        table.add_row(f"refused: {reason}", str(count))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
