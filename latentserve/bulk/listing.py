"""What a job works on: every item of files, folders, patterns, lists and shards, in one order."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latentserve.cli.sources import ARRAY, IMAGES, SOUNDS, STANDARD_INPUT, is_array, paths
from latentserve.errors import InvalidInput
from latentserve.records import printable

SHARDS, TABLES = frozenset({".tar"}), frozenset({".parquet"})
PACKED = frozenset({".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z"})
ONE_NAME = "one: a row is found again by it"
WHOLE = -1
"""Place of an item that is a file of its own."""


class Item(NamedTuple):
    """One item of a job, not read yet.

    Attributes:
        file: that holds it.
        place: of its first byte in a shard; its row in a table; WHOLE: the item is the file.
        size_bytes: of it in a shard.
        member: its name in a shard.
        column: of a table; empty: the file is none.
    """

    file: str
    place: int = WHOLE
    size_bytes: int = 0
    member: str = ""
    column: str = ""

    @property
    def source(self) -> str:
        """What it is called in the output."""
        if self.column:
            return printable(f"{self.file}[{self.place}]")
        return printable(f"{self.file}/{self.member}" if self.member else self.file)


def listed(inputs: Sequence[str], column: str | None = None, out: Path | None = None) -> list[Item]:
    """All items by file and place, each source once.

    Args:
        inputs: paths of files, folders (read at any depth, hidden files left out) or shards (.tar, of which the images
            and sounds are taken), patterns such as `*.jpg`, or `-`: paths on standard input, one a line.
        column: of Parquet files among them: holds the bytes of items, or their paths, relative to the file's folder.
        out: folder of the job, whose own parts are no inputs.

    Raises:
        InvalidInput: one of them names nothing, or a shard cannot be read. Nothing of an item has been read.
    """
    files = {file for given in inputs for file in _files(given, column)}
    found: dict[str, Item] = {}
    for file in sorted(files):
        if out is not None and Path(file).suffix.lower() in TABLES and Path(file).parent.resolve() == out.resolve():
            continue
        for item in _items(file, column):
            if found.setdefault(item.source, item) != item:
                raise InvalidInput.at("inputs", got=f"two items that are both called {item.source}", expected=ONE_NAME)
    return list(found.values())


def _files(given: str, column: str | None) -> Iterable[str]:
    if given != STANDARD_INPUT:
        return paths(given, IMAGES | SOUNDS | SHARDS | (TABLES if column else frozenset()))
    named = list(_standard_input())
    if not named:
        raise InvalidInput.at("inputs", got="nothing on standard input", expected="paths, one a line")
    return named


def _standard_input() -> Iterator[str]:
    if sys.stdin is None:  # a supervisor may close it
        return
    stream: Any = sys.stdin.buffer
    if stream.peek(len(ARRAY))[: len(ARRAY)] == ARRAY:
        raise _no_rows("standard input")
    for line in stream:
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield str(Path(name))


def _items(file: str, column: str | None) -> Iterable[Item]:
    kind = Path(file).suffix.lower()
    if is_array(Path(file)):
        raise _no_rows(file)
    if kind in PACKED:
        raise InvalidInput.at(
            "inputs", got=f"{file}, an archive", expected="files, folders or shards (.tar, not packed)"
        )
    if kind in TABLES | SHARDS and not Path(file).is_file():
        raise InvalidInput.at("inputs", got=f"{file}, no regular file", expected="a shard or table that can be read")
    if kind in TABLES:
        return _rows(file, column)
    return members(file) if kind in SHARDS else [Item(file)]


def _rows(file: str, column: str | None) -> list[Item]:
    if not column:
        expected = "--column NAME beside it, of its bytes or paths"
        raise InvalidInput.at("inputs", got=f"{file}, a Parquet file", expected=expected)
    from latentserve.bulk.tables import column_of

    found = column_of(file, column)
    if isinstance(found, int):
        return [Item(file, row, column=column) for row in range(found)]
    folder = Path(file).parent
    return [
        Item(file, row, column=column) if path is None else Item(str(folder / path)) for row, path in enumerate(found)
    ]


def _no_rows(name: str) -> InvalidInput:
    return InvalidInput.at("inputs", got=f"{name}, an array", expected="files, folders or shards (--out takes arrays)")


def members(shard: str) -> list[Item]:
    """The images and sounds in a shard; labels and the like beside them are left out.

    Raises:
        InvalidInput: it cannot be read, or has none.
    """
    found, kinds = dict[str, Item](), IMAGES | SOUNDS
    try:
        with tarfile.open(shard, "r:") as tar:
            for one in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every one
                if Path(one.name).suffix.lower() not in kinds or Path(one.name).name.startswith("."):
                    continue
                if one.isreg() and not one.issparse():
                    found[one.name] = Item(shard, one.offset_data, one.size, one.name)  # the last of a name counts
                elif one.islnk() and (of := found.get(one.linkname)):
                    found[one.name] = of._replace(member=one.name)
            _check_end(tar)
    except (OSError, ValueError, tarfile.TarError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput.at(
            "inputs", got=shard, expected=f"a tar that can be read, not compressed ({why})"
        ) from error
    if not found:
        some = " ".join(sorted(kinds))
        raise InvalidInput.at("inputs", got=f"{shard}, a shard without images or sounds", expected=f"some of {some}")
    return list(found.values())


def _check_end(tar: tarfile.TarFile) -> None:
    """Tarfile takes a header that is damaged for the end, and what comes after it would be missing without a word."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {tar.offset}")
