"""What a command reads: files, folders, patterns, arrays, and names that come on standard input."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentserve.errors import InvalidInput

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
SOUNDS = frozenset({".wav", ".flac"})
STANDARD_INPUT = "-"
ARRAY = b"\x93NUMPY"
"""What a .npy file begins with."""


class Source(NamedTuple):
    """One item: what it is called in the output, and what the client takes."""

    name: str
    item: Any


def sources(inputs: Sequence[str]) -> tuple[Iterator[Source], int | None]:
    """All items in their order, and how many there are; None where only reading them tells.

    Args:
        inputs: paths of files, folders (read at any depth, hidden files left out) or .npy arrays of rows, patterns
            such as `*.jpg`, or `-`: paths on standard input, one a line, or a .npy array.

    Raises:
        InvalidInput: one of them names nothing, before any is read. The error names it.
    """
    found: list[Path | None] = []
    for given in inputs:
        found += [None] if given == STANDARD_INPUT else map(Path, paths(given))
    total = None if None in found else sum(_num_items(path) for path in found if path is not None)
    return (one for path in found for one in (_standard_input() if path is None else _items(path))), total


def paths(given: str, kinds: frozenset[str] = IMAGES | SOUNDS) -> list[str]:
    """The files that an input names, in order.

    Args:
        given: a file, a folder or a pattern.
        kinds: endings of the files of a folder that are taken.

    Raises:
        InvalidInput: there is none.
    """
    path = Path(given)
    if not given:  # an unset variable, and not the folder that one is in
        raise InvalidInput.at("inputs", got="''", expected="a file, a folder or a pattern")
    if path.is_dir():
        files = sorted(_files(path, kinds), key=lambda one: one.split(os.sep))  # noqa: PTH206 (no Path for each of millions)
        if not files:
            some = " ".join(sorted(kinds))
            raise InvalidInput.at(
                "inputs", got=f"{given}, a folder without images or sounds", expected=f"some of {some}"
            )
        return files
    if path.exists():
        return [str(path)]
    matches = sorted(Path(one) for one in glob.glob(given, recursive=True) if not Path(one).is_dir())  # noqa: PTH207
    if not matches:
        raise InvalidInput.at("inputs", got=repr(given), expected="a file, a folder or a pattern that matches some")
    return [str(one) for one in matches]


def _files(folder: Path, kinds: frozenset[str]) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        within = "" if parent == os.curdir else os.path.join(Path(parent), "")  # noqa: PTH118
        taken = (name for name in names if not name.startswith(".") and Path(name).suffix.lower() in kinds)
        yield from (within + name for name in taken)


def _unreadable(error: OSError) -> None:
    """A folder that is left out without a word looks like one that is done."""
    expected = f"a folder that can be read ({error.strerror})"
    raise InvalidInput.at("inputs", got=str(error.filename), expected=expected) from error


def is_array(path: Path) -> bool:
    """Whether it is a .npy file, by its name."""
    return path.suffix.lower() == ".npy"


def _num_items(path: Path) -> int:
    return len(_array(path)) if is_array(path) else 1


def _array(path: Path) -> Any:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput.at("inputs", got=str(path), expected=f"a .npy array ({error})") from error
    return _rows(rows, str(path))


def _rows(rows: Any, name: str) -> Any:
    if rows.ndim < 2 or not len(rows):
        raise InvalidInput.at("inputs", got=f"{name} of shape {list(rows.shape)}", expected="rows: [n, ...]")
    return rows


def _items(path: Path) -> Iterator[Source]:
    if not is_array(path):
        yield Source(str(path), path)
        return
    for number, row in enumerate(_array(path)):
        yield Source(f"{path}[{number}]", np.asarray(row))


def _standard_input() -> Iterator[Source]:
    stream: Any = sys.stdin.buffer
    if stream.peek(len(ARRAY))[: len(ARRAY)] == ARRAY:
        try:
            rows = np.load(io.BytesIO(stream.read()), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InvalidInput.at("inputs", got="standard input", expected=f"a .npy array ({error})") from error
        for number, row in enumerate(_rows(rows, "standard input")):
            yield Source(f"-[{number}]", row)
        return
    for line in stream:
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if name:
            yield from _items(Path(name))
