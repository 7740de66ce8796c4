"""Encoded images to the rows of a set, held in memory as uint8 if memory should hold them, else decoded when asked for.

An image that cannot be decoded is skipped, counted and named. Decoding is `latentserve.images`, the same as in the
service, so that a file sent there gives the pixels that were trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from tqdm import tqdm

from latentserve.cpus import available_cpus
from latentserve.images import ImageError, decode_image
from latentserve.inputs import ImageInput
from training.data.digests import Digests, digest_of
from training.data.errors import DataError
from training.data.lazy import File, Lazy, Pixels, Store, as_values

CHANNELS = 3
MIN_IMAGES = 20
MAX_PIXELS = 100_000_000
IN_MEMORY_BYTES = 2**30
"""Pixels of a set that is held in memory. One that is larger is decoded when its rows are asked for (`Lazy`)."""
FILES_AT_ONCE = 256  # encoded bytes that are in memory at a time: of these
IMAGES_BETWEEN_SAVES = 4096


class TooLarge(Exception):
    """A stream of images turned out to be more than memory should hold."""


@dataclass(frozen=True)
class Reading:
    """How files become rows.

    Attributes:
        kind: of the data spec, for messages.
        source: what lies where, for the cache of digests.
        given: shape of a row, and how images of other sizes become one.
    """

    kind: str
    source: str
    given: ImageInput

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return (self.given.height, self.given.width, self.given.channels)

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return self.given.height * self.given.width * self.given.channels

    def decode(self, data: bytes) -> Pixels:
        """Decodes and resizes.

        Raises:
            ImageError: see `decode_image`.
        """
        return decode_image(data, self.given, MAX_PIXELS)

    @property
    def rule(self) -> str:
        """Everything that decides what pixels a file becomes."""
        return f"{self.given} Pillow {PIL.__version__}"


@dataclass(frozen=True)
class Decoded:
    """What became of some files.

    Attributes:
        images: uint8 [num_files, H, W, C], or a `Lazy`; a row at fault holds anything.
        faults: sentences that say why not, by the places of files.
        files: how many there were.
    """

    images: Any
    faults: dict[int, str] = field(default_factory=dict)
    files: int = 0


def decode_all(reading: Reading, files: Iterable[File], lazily: bool | None = None) -> Decoded:
    """Decodes in several threads, with progress.

    Args:
        reading: how.
        files: may be a stream, taken some at a time; of a sequence lazy rows can be made.
        lazily: whether pixels are dropped again; None: if memory should not hold them.

    Raises:
        TooLarge: a stream, to be read in another way.
    """
    num_files = len(files) if isinstance(files, Sized) else None
    if lazily or (lazily is None and num_files is not None and num_files * reading.row_bytes > IN_MEMORY_BYTES):
        return _lazily(reading, files)
    return _into_memory(reading, files, num_files)


def _into_memory(reading: Reading, files: Iterable[File], num_files: int | None) -> Decoded:
    images_NHWC = np.empty((num_files or 0, *reading.row_shape), np.uint8)
    found = Decoded(images_NHWC)

    def decode(place: int, file: File) -> None:
        try:
            images_NHWC[place] = reading.decode(file.read())
        except (ImageError, OSError) as error:
            found.faults[place] = f"{file.name}: {error}"

    stream, done = iter(files), 0
    with ThreadPoolExecutor(available_cpus()) as pool, _bar(num_files) as bar:
        while some := list(islice(stream, FILES_AT_ONCE)):
            end = done + len(some)
            if num_files is None:
                if end * reading.row_bytes > IN_MEMORY_BYTES:
                    raise TooLarge
                images_NHWC.resize((end, *reading.row_shape), refcheck=False)  # in place where the system can
            for _ in pool.map(decode, range(done, end), some):
                pass
            bar.update(len(some))
            done = end
    return Decoded(images_NHWC, found.faults, done)


def _lazily(reading: Reading, files: Iterable[File]) -> Decoded:
    """The first pass over a large set, which keeps the digest of each row; goes on where one was stopped."""
    known = Digests(reading.source, reading.rule)
    kept, digests, faults = list[File](), list[bytes](), dict[int, str]()

    def digest(file: File) -> bytes | str:
        try:
            place = None if file.place is None else file.place()
            before = None if place is None else known.get(place)
            found = before or digest_of(reading.decode(file.read()))
            if place is not None and before is None:
                known.put(place, found)
            return found
        except (ImageError, OSError) as error:
            return f"{file.name}: {error}"

    stream, num_files = iter(files), len(files) if isinstance(files, Sized) else None
    with known.saved(), ThreadPoolExecutor(available_cpus()) as pool, _bar(num_files) as bar:
        while some := list(islice(stream, FILES_AT_ONCE)):
            for file, found in zip(some, pool.map(digest, some), strict=True):
                if isinstance(found, str):
                    faults[len(kept)] = found
                kept.append(file)
                digests.append(found if isinstance(found, bytes) else b"")
            bar.update(len(some))
            if len(kept) % IMAGES_BETWEEN_SAVES == 0:
                known.save()
    store = Store(reading.kind, kept, digests, reading.decode, reading.row_shape, known)
    return Decoded(Lazy(store, np.arange(len(kept))), faults, len(kept))


def _bar(num_files: int | None) -> tqdm[Any]:
    return tqdm(desc="decoding", total=num_files, unit=" images")


def readable(
    kind: str, decoded: Decoded, at_least: int = MIN_IMAGES, others: Sequence[str] = ()
) -> tuple[NDArray[np.uint8], list[int]]:
    """The images of `decode_all`, uint8 [N, height, width, 3], and their places; prints why others are none.

    Args:
        kind: of the data spec.
        decoded: whose images are moved in their own memory where some before them are left out.
        at_least: so many.
        others: sentences about what is no image and should be.

    Raises:
        DataError: fewer than `at_least`.
    """
    faults, num = [*(decoded.faults[place] for place in sorted(decoded.faults)), *others], decoded.files + len(others)
    for fault in faults:
        print(f"skipped {fault}", file=sys.stderr)
    if faults:
        print(f"skipped {len(faults)} of {num} images", file=sys.stderr)
    rows = [place for place in range(decoded.files) if place not in decoded.faults]
    if len(rows) < at_least:
        raise DataError(f"{kind}: got {len(rows)} readable images of {num}, expected at least {at_least} JPEG or PNG")
    images: object = decoded.images
    if isinstance(images, Lazy):
        return as_values(images[np.array(rows, np.int64)]), rows
    for to, place in enumerate(rows):
        if to != place:
            decoded.images[to] = decoded.images[place]
    return decoded.images[: len(rows)], rows
