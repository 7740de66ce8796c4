"""Encoded images to the rows of a set, held in memory as uint8.

An image that cannot be decoded is skipped, counted and named. Decoding is `latentserve.images`, the same as in the
service, so that a file sent there gives the pixels that were trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latentserve.images import ImageError, decode_image
from training.data.rows import DataError
from training.data.sizes import Size

CHANNELS = 3
MIN_IMAGES = 20
MAX_PIXELS = 100_000_000
LARGEST_SET_BYTES = 8 * 2**30
FILES_AT_ONCE = 1000  # encoded bytes that are in memory at a time: of these


class File(NamedTuple):
    """An encoded image: what to call it, and how to get its bytes."""

    name: str
    read: Callable[[], bytes]


def decode_all(kind: str, files: Iterable[File], size: Size) -> list[NDArray[np.uint8] | str]:
    """Decodes, resizes and crops, in several threads.

    Args:
        kind: of the data spec, for messages.
        files: may be a stream; taken some at a time.
        size: of the result, and how it is come by.

    Returns:
        Of each file uint8 [height, width, 3], or a sentence that says why not.

    Raises:
        DataError: more than memory should hold.
    """
    given = size.input(CHANNELS)

    def decode(file: File) -> NDArray[np.uint8] | str:
        try:
            return decode_image(file.read(), given, MAX_PIXELS)
        except (ImageError, OSError) as error:
            return f"{file.name}: {error}"

    num_files = len(files) if isinstance(files, Sized) else 0
    _check_size(kind, num_files, size)
    stream, decoded = iter(files), list[NDArray[np.uint8] | str]()
    with ThreadPoolExecutor() as pool, tqdm(desc="decoding", total=num_files or None, unit=" images") as bar:
        while some := list(islice(stream, FILES_AT_ONCE)):
            decoded += pool.map(decode, some)
            bar.update(len(some))
            _check_size(kind, len(decoded), size)
    return decoded


def readable(
    kind: str, decoded: list[NDArray[np.uint8] | str], at_least: int = MIN_IMAGES
) -> tuple[NDArray[np.uint8], list[int]]:
    """The images of `decode_all`, uint8 [N, height, width, 3], and their places; prints why others are none.

    Raises:
        DataError: fewer than `at_least`.
    """
    faults = [fault for fault in decoded if isinstance(fault, str)]
    for fault in faults:
        print(f"skipped {fault}", file=sys.stderr)
    if faults:
        print(f"skipped {len(faults)} of {len(decoded)} images", file=sys.stderr)
    rows = [row for row, image in enumerate(decoded) if not isinstance(image, str)]
    if len(rows) < at_least:
        raise DataError(
            f"{kind}: got {len(rows)} readable images of {len(decoded)}, expected at least {at_least} JPEG or PNG"
        )
    return np.stack([image for image in decoded if not isinstance(image, str)]), rows


def _check_size(kind: str, num_images: int, size: Size) -> None:
    num_bytes = num_images * size.height * size.width * CHANNELS
    if num_bytes > LARGEST_SET_BYTES:
        raise DataError(
            f"{kind}: {num_images} images of {size} are {num_bytes} bytes,"
            f" expected at most {LARGEST_SET_BYTES}: choose a smaller --image-size"
        )
