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

SHARDS = frozenset({".tar"})
WHOLE = -1
"""Place of an item that is a file of its own."""


class Item(NamedTuple):
    """One item of a job, not read yet.

    Attributes:
        file: that holds it.
        place: of its first byte in a shard; WHOLE: the item is the file.
        size_bytes: of it in a shard.
        member: its name in a shard.
    """

    file: str
    place: int = WHOLE
    size_bytes: int = 0
    member: str = ""

    @property
    def source(self) -> str:
        """What it is called in the output."""
        return printable(f"{self.file}/{self.member}" if self.member else self.file)


def listed(inputs: Sequence[str]) -> list[Item]:
    """All items by file and place, each source once.

    Args:
        inputs: paths of files, folders (read at any depth, hidden files left out) or shards (.tar, of which the images
            and sounds are taken), patterns such as `*.jpg`, or `-`: paths on standard input, one a line.

    Raises:
        InvalidInput: one of them names nothing, or a shard cannot be read. Nothing of an item has been read.
    """
    files = {file for given in inputs for file in _files(given)}
    found: dict[str, Item] = {}
    for file in sorted(files):
        for item in _items(file):
            found.setdefault(item.source, item)
    return list(found.values())


def _files(given: str) -> Iterable[str]:
    if given != STANDARD_INPUT:
        return paths(given, IMAGES | SOUNDS | SHARDS)
    named = list(_standard_input())
    if not named:
        raise InvalidInput.at("inputs", got="nothing on standard input", expected="paths, one a line")
    return named


def _standard_input() -> Iterator[str]:
    stream: Any = sys.stdin.buffer
    if stream.peek(len(ARRAY))[: len(ARRAY)] == ARRAY:
        raise _no_rows("standard input")
    for line in stream:
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield str(Path(name))


def _items(file: str) -> Iterable[Item]:
    if is_array(Path(file)):
        raise _no_rows(file)
    return _members(file) if Path(file).suffix.lower() in SHARDS else [Item(file)]


def _no_rows(name: str) -> InvalidInput:
    return InvalidInput.at("inputs", got=f"{name}, an array", expected="files, folders or shards (--out takes arrays)")


def _members(shard: str) -> list[Item]:
    """The images and sounds in a shard; labels and the like beside them are left out."""
    found = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for one in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every one
                if one.isreg() and Path(one.name).suffix.lower() in IMAGES | SOUNDS:
                    found.append(Item(shard, one.offset_data, one.size, one.name))
    except (OSError, tarfile.TarError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput.at(
            "inputs", got=shard, expected=f"a tar that can be read, not compressed ({why})"
        ) from error
    if not found:
        kinds = " ".join(sorted(IMAGES | SOUNDS))
        raise InvalidInput.at("inputs", got=f"{shard}, a shard without images or sounds", expected=f"some of {kinds}")
    return found
