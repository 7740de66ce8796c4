"""Images that are decoded when they are asked for: sets that memory should not hold.

A first pass has decoded every file once and kept 16 bytes of each: which files can be read, which rows are equal, and
what the pixels were. Whoever wants pixels takes some rows at a time:

    for start in range(0, len(values), 500):
        rows_NHWC = np.asarray(values[start : start + 500])

A file that is gone by then, or gives other pixels, ends the run: figures of a set that changes meanwhile are of no set.

Shape legend: N rows, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latentserve.cpus import available_cpus
from latentserve.images import ImageError
from training.data.digests import Digests, Place, digest_of
from training.data.errors import DataError

MOST_BYTES_AT_ONCE = 2**30
"""Of pixels that are asked for at once: more is a mistake of ours, which would fill memory without a word."""
PART_BYTES = 2**25
"""Of pixels that a pass over all rows holds at a time."""
SECONDS_BEFORE_PROGRESS = 3.0
BATCH_BYTES, MOST_BATCH_ROWS = 2**22, 500
"""A network of 32 channels at half the height and width, in float32, takes eleven times what its uint8 input does."""
HELD_BYTES = 2**27
"""Of rows that are asked for several times: they are decoded once."""
Pixels = NDArray[np.uint8]


class File(NamedTuple):
    """An encoded image: what to call it, how to get its bytes, and where it lies, if it will lie there again."""

    name: str
    read: Callable[[], bytes]
    place: Callable[[], Place] | None = None


@dataclass(frozen=True)
class Store:
    """Encoded images that were decoded once.

    Attributes:
        kind: of the data spec, for messages.
        files: those that can be decoded.
        digests: of the pixels of each.
        decode: bytes of a file to uint8 [H, W, C].
        row_shape: of what it returns.
        known: the cache of digests.
    """

    kind: str
    files: Sequence[File]
    digests: Sequence[bytes]
    decode: Callable[[bytes], Pixels]
    row_shape: tuple[int, int, int]
    known: Digests

    def pixels(self, row: int) -> Pixels:
        """One image.

        Raises:
            DataError: the file cannot be read any more, or does not give the pixels that it gave first.
        """
        file = self.files[row]
        try:
            image_HWC = self.decode(file.read())
        except (ImageError, OSError) as error:
            raise self._changed(file, f"cannot be read any more ({error})") from error
        if digest_of(image_HWC) != self.digests[row]:
            raise self._changed(file, "is not the image any more that was read first")
        return image_HWC

    def _changed(self, file: File, how: str) -> DataError:
        self.known.drop()
        return DataError(
            f"{self.kind}: {file.name} {how}; leave the files alone until the end, and run the same command again"
        )


class Lazy:
    """Rows of a store: uint8 [N, H, W, C] to those who take some at a time.

    `values[row]` is an array, `values[a:b]`, `values[indices]` and `values[mask]` are again lazy; `np.asarray` decodes.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: Store, rows_N: NDArray[Any], change: Callable[[Pixels], Pixels] | None = None) -> None:
        self.store = store
        self.rows_N = rows_N
        self._change = change

    def __len__(self) -> int:
        return len(self.rows_N)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        if self._change is None:
            return (len(self), *self.store.row_shape)
        return (len(self), *self._change(np.zeros((1, *self.store.row_shape), np.uint8)).shape[1:])

    @property
    def nbytes(self) -> int:
        """Of the pixels, if all of them were decoded."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, key: Any) -> Any:
        chosen = self.rows_N[key]
        if np.ndim(chosen) == 0:
            return self._changed(self.store.pixels(int(chosen))[None])[0]
        return Lazy(self.store, chosen, self._change)

    def __iter__(self) -> Iterator[Pixels]:
        for part_NHWC in parts_of(as_values(self)):
            yield from part_NHWC

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self.nbytes > MOST_BYTES_AT_ONCE:
            raise RuntimeError(f"got {len(self)} images to decode at once, expected a part of them: np.asarray(v[a:b])")
        out_NHWC = np.empty((len(self), *self.store.row_shape), np.uint8)

        def decode(place: int) -> None:
            out_NHWC[place] = self.store.pixels(int(self.rows_N[place]))

        with ThreadPoolExecutor(available_cpus()) as pool:
            try:
                for _ in pool.map(decode, range(len(self))):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        changed = self._changed(out_NHWC)
        return changed if dtype is None else changed.astype(dtype)

    def changed(self, change: Callable[[Pixels], Pixels]) -> Lazy:
        """The same rows, each of which goes through a function of some rows [N, H, W, C], row by row."""
        before = self._change
        return Lazy(self.store, self.rows_N, change if before is None else lambda rows: change(before(rows)))

    def _changed(self, rows_NHWC: Pixels) -> Pixels:
        return rows_NHWC if self._change is None else self._change(rows_NHWC)

    def digests(self) -> list[bytes]:
        """Of each row; nothing is decoded, unless rows are changed."""
        if self._change is not None:
            return [digest_of(row) for row in self]
        return [self.store.digests[row] for row in self.rows_N.tolist()]

    @property
    def fingerprint(self) -> str:
        """Of what the first pass found of each row, in hex; nothing is decoded. Changed rows differ by their shape."""
        return fingerprint_of(self.shape, [self.store.digests[row] for row in self.rows_N.tolist()])

    def sha256(self) -> str:
        """Of all pixels in their order, in hex: that of the same rows in memory. Decodes all."""
        digest = hashlib.sha256()
        with progress("fingerprint", len(self)) as bar:
            for part_NHWC in parts_of(as_values(self)):
                digest.update(np.ascontiguousarray(part_NHWC).data)
                bar.update(len(part_NHWC))
        return digest.hexdigest()


def fingerprint_of(shape: Sequence[int], digests: Sequence[bytes]) -> str:
    """Of rows of a shape, by the digest of each: see `digest_of`."""
    return hashlib.sha256(f"{tuple(shape)[1:]}".encode() + b"".join(digests)).hexdigest()


def progress(what: str, num_rows: int) -> tqdm[Any]:
    """A line on stderr with rate and time left, if it takes some seconds."""
    return tqdm(desc=what, total=num_rows, unit=" images", delay=SECONDS_BEFORE_PROGRESS)


def parts_of(values: NDArray[Any], num_rows: int | None = None) -> Iterator[NDArray[Any]]:
    """Arrays of some rows at a time, of rows that are in memory or not; default: of 32 MiB."""
    num_rows = num_rows or rows_within(values, PART_BYTES)
    for start in range(0, len(values), num_rows):
        yield np.asarray(values[start : start + num_rows])


def rows_within(values: NDArray[Any], num_bytes: int) -> int:
    """How many such rows have so many bytes, at least one."""
    return max(1, num_bytes // int(np.prod(values.shape[1:], dtype=np.int64) * values.dtype.itemsize))


def batch_rows(values: NDArray[Any], num_bytes: int = BATCH_BYTES) -> int:
    """Rows of a batch of a network: 500, fewer of large rows, of which it makes many times as much inside."""
    return min(MOST_BATCH_ROWS, rows_within(values, num_bytes))


def held(values: NDArray[Any], num_bytes: int = HELD_BYTES) -> NDArray[Any]:
    """The rows in memory if they are few; what is lazy and more than that stays so."""
    return np.asarray(values) if values.nbytes <= num_bytes else values


class Chosen:
    """Some rows of an array, copied where they are looked at: a copy of them all would be a large set twice.

    To those who take some at a time it is as `Lazy` is.
    """

    def __init__(self, array: NDArray[Any], rows_N: NDArray[Any]) -> None:
        self.array, self.rows_N = array, rows_N
        self.dtype, self.ndim, self.shape = array.dtype, array.ndim, (len(rows_N), *array.shape[1:])
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * array.itemsize

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, key: Any) -> Any:
        chosen = self.rows_N[key]
        return self.array[chosen] if np.ndim(chosen) == 0 else Chosen(self.array, chosen)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        rows: NDArray[Any] = self.array[self.rows_N]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def chosen_rows(values: NDArray[Any], rows_N: NDArray[Any]) -> NDArray[Any]:
    """Those rows; of an array that is large no copy is made."""
    if isinstance(values, np.ndarray) and values.nbytes > HELD_BYTES:
        return cast(NDArray[Any], Chosen(values, rows_N))
    some: NDArray[Any] = values[rows_N]
    return some


def is_lazy(values: object) -> bool:
    """Whether rows are decoded when they are asked for."""
    return isinstance(values, Lazy)


def as_values(lazy: Lazy) -> NDArray[Any]:
    """The rows as `Rows.values`, whose type is that of the usual case."""
    return cast(NDArray[Any], lazy)


def joined_rows(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of one set, one part after another."""
    first: object = parts[0]
    if isinstance(first, Lazy):
        return as_values(Lazy(first.store, np.concatenate([cast(Any, part).rows_N for part in parts])))
    return np.concatenate(parts)


def changed_rows(values: NDArray[Any], change: Callable[[Pixels], Pixels]) -> NDArray[Any]:
    """Rows after a function of some of them, which treats each by itself."""
    rows: object = values
    return as_values(rows.changed(change)) if isinstance(rows, Lazy) else change(values)
