"""Where a member of a shard can be read again: in a shard that lies here and is not compressed at its own place.

Others, compressed ones and those of other machines, have no places. Their images are written, as they are encoded, to
one file without a name in the folder of temporary files (TMPDIR), which is gone when the process ends.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from training.data.digests import Place
from training.data.errors import DataError
from training.data.lazy import File


class Kept:
    """Gives each image of a stream of members a place; of each shard they come in the order of the shard."""

    def __init__(self) -> None:
        self._places: dict[str, Iterator[tuple[str, int, int]] | None] = {}
        self._spool: _Spool | None = None

    def file(self, called: str, shard: str, name: str, data: bytes) -> File:
        """The image to be read again.

        Raises:
            DataError: it must be written to a disk that is full.
        """
        if shard not in self._places:
            self._places[shard] = members_of(Path(shard)) if _is_plain(shard) else None
        found = None if (places := self._places[shard]) is None else _next(places, name)
        if found is None or found[1] != len(data):
            return self._spooled(called, data)
        path, (start, size) = Path(shard), found

        def place() -> Place:
            status = path.stat()
            return Place(f"{path.absolute()}\0{start}", size, status.st_mtime_ns)

        return File(called, partial(_read, path, start, size), place)

    def _spooled(self, called: str, data: bytes) -> File:
        try:
            if self._spool is None:
                self._spool = _Spool()
            start = self._spool.append(data)
        except OSError as error:
            raise DataError(
                f"wds: {called} cannot be kept in {tempfile.gettempdir()} ({error}), as images of compressed or remote"
                " shards are that memory should not hold; choose another folder by TMPDIR, or unpack the shards"
            ) from error
        return File(called, partial(self._spool.read, start, len(data)))


def members_of(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Name, start and size of each file of a tar that is not compressed."""
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if member.isreg():  # of a sparse one the bytes lie in pieces
                yield member.name, member.offset_data, -1 if member.sparse else member.size
            tar.__dict__["members"] = []  # or it would remember all of them


def _next(places: Iterator[tuple[str, int, int]], name: str) -> tuple[int, int] | None:
    """Start and size of the next member of that name."""
    return next(((start, size) for known, start, size in places if known == name), None)


def _is_plain(shard: str) -> bool:
    path = Path(shard)
    try:
        with tarfile.open(path, "r:"):
            return path.is_file()
    except (OSError, tarfile.TarError):
        return False


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


class _Spool:
    """A file without a name that is gone with its last reader."""

    def __init__(self) -> None:
        self._number, name = tempfile.mkstemp(prefix="latentserve-")
        Path(name).unlink()
        weakref.finalize(self, os.close, self._number)
        self._size = 0

    def append(self, data: bytes) -> int:
        """Where it begins."""
        start, left = self._size, memoryview(data)
        while left:
            left = left[os.pwrite(self._number, left, self._size) :]
            self._size = start + len(data) - len(left)
        return start

    def read(self, start: int, size: int) -> bytes:
        """Some of its bytes."""
        return os.pread(self._number, size, start)
