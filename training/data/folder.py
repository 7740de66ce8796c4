"""A user's own folder of JPEG and PNG images, read at any depth.

If all images lie in subfolders, the first folder's name is the label (only ever used to report figures).
A file that cannot be decoded is skipped, counted and named. Decoding is `latentserve.images`, the same as
in the service, so that a file sent there gives the pixels that were trained on.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latentserve.images import ImageError, decode_image
from training.data.rows import Data, DataError, Rows, split_off

IMAGE_SIZE = 64
CHANNELS = 3
SUFFIXES = {".jpg", ".jpeg", ".png"}
MIN_IMAGES = 20
MAX_PIXELS = 100_000_000
LARGEST_SET_BYTES = 8 * 2**30  # the set is held in memory as uint8
CALIBRATION_SHARE = TEST_SHARE = 0.1


def load(path: str, image_size: int, seed: int) -> Data:
    """80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed.

    Raises:
        DataError: no such folder, or too few images in it.
    """
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise DataError(f"folder: got {path!r}, expected a folder of JPEG or PNG images (folder:PATH)")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) < MIN_IMAGES:
        raise DataError(f"folder: got {len(files)} images under {folder}, expected at least {MIN_IMAGES}")
    images_NHWC, kept = _decode_all(files, image_size)
    if len(kept) < MIN_IMAGES:
        raise DataError(f"folder: got {len(kept)} readable images, expected at least {MIN_IMAGES}")
    images = Rows(images_NHWC, _labels([file.relative_to(folder) for file in kept]))
    rest, test = split_off(images, max(1, int(len(images) * TEST_SHARE)), seed)
    train, calibration = split_off(rest, max(1, int(len(images) * CALIBRATION_SHARE)), seed)
    return Data(f"folder:{path}", train, calibration, test)


def _decode_all(files: list[Path], image_size: int) -> tuple[NDArray[np.uint8], list[Path]]:
    shape = (len(files), image_size, image_size, CHANNELS)
    if (size := int(np.prod(shape))) > LARGEST_SET_BYTES:
        raise DataError(
            f"folder: {len(files)} images of {image_size} x {image_size} are {size} bytes,"
            f" expected at most {LARGEST_SET_BYTES}: choose a smaller --image-size"
        )
    images_NHWC = np.empty(shape, np.uint8)

    def decode(row: int) -> str | None:
        try:
            data = files[row].read_bytes()
            images_NHWC[row] = decode_image(data, image_size, image_size, CHANNELS, MAX_PIXELS)
        except (ImageError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        faults = list(tqdm(pool.map(decode, range(len(files))), "decoding", len(files), unit="image"))
    bad = [row for row, fault in enumerate(faults) if fault]
    for row in bad:
        print(f"skipped {files[row]}: {faults[row]}", file=sys.stderr)
    if bad:
        print(f"skipped {len(bad)} of {len(files)} images", file=sys.stderr)
    good = [row for row, fault in enumerate(faults) if fault is None]
    return images_NHWC[good] if bad else images_NHWC, [files[row] for row in good]


def _labels(files: list[Path]) -> NDArray[np.int64] | None:
    if any(len(file.parts) < 2 for file in files):
        return None
    names = sorted({file.parts[0] for file in files})
    return np.array([names.index(file.parts[0]) for file in files], np.int64) if len(names) > 1 else None
