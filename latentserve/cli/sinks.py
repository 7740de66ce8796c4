"""Where a command writes: a table for people, CSV or JSON lines for programs, an array, or pictures.

A line is written as soon as its item is done, so that a command that is stopped keeps what it had. An array is written
at its end, all of it or nothing.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput, Unsupported

FORMATS = ("table", "csv", "jsonl")
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
ARRAY = ".npy"
_ROW = re.compile(r"(.*?)(?:\[(\d+)\])?", re.DOTALL)
"""The name of a file, and of a row in it."""
Record = Mapping[str, Any]
"""Of one item, by column; `item` is its name, `error` what is wrong with it."""


class Sink(Protocol):
    """Takes what was found of each item, in order."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, record: Record, row: NDArray[Any] | None) -> None:
        """Of one item: what to tell of it, and its tensor, if it has one."""


class Table:
    """Lines for people: the columns, aligned. Of a tensor only its shape is told."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def write(self, record: Record, row: NDArray[Any] | None) -> None:
        """See `Sink`."""
        if record.get("error"):
            line = f"{record['item']}  error: {record['error']}"
        else:
            told = [_aligned(name, value) for name, value in record.items() if name not in ("item", "error")]
            shape = [] if row is None else [f"{row.dtype} {list(row.shape)}"]
            line = "  ".join([*told, *shape, str(record["item"])])
        self._stream.write(line + "\n")


class Csv:
    """One line an item, a heading first. A tensor has a column for each number."""

    def __init__(self, stream: TextIO, columns: tuple[str, ...], owned: bool) -> None:
        self._stream = stream
        self._columns = columns
        self._owned = owned
        self._rows: list[tuple[Record, NDArray[Any] | None]] = []
        self._writer: Any = csv.writer(stream, lineterminator="\n")
        self._width = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width < 0 and self._rows:
            self._begin(0)
        _done(self._stream, self._owned)

    def write(self, record: Record, row: NDArray[Any] | None) -> None:
        """See `Sink`. Items without a tensor wait for the first that has one, which tells how wide the table is."""
        if self._width >= 0:
            self._line(record, row)
            return
        self._rows.append((record, row))
        if row is not None or not record.get("error"):
            self._begin(0 if row is None else row.size)

    def _begin(self, width: int) -> None:
        self._width = width
        self._writer.writerow([*self._columns, *(str(number) for number in range(width))])
        for record, row in self._rows:
            self._line(record, row)
        self._rows.clear()

    def _line(self, record: Record, row: NDArray[Any] | None) -> None:
        numbers = [""] * self._width if row is None else [str(number) for number in row.ravel()]
        cells = ("" if record.get(column) is None else record[column] for column in self._columns)
        self._writer.writerow([*(str(cell).lower() if isinstance(cell, bool) else cell for cell in cells), *numbers])
        self._stream.flush()


class JsonLines:
    """One object an item; a tensor is a list, named after what it is."""

    def __init__(self, stream: TextIO, tensor: str, owned: bool) -> None:
        self._stream = stream
        self._tensor = tensor
        self._owned = owned

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _done(self._stream, self._owned)

    def write(self, record: Record, row: NDArray[Any] | None) -> None:
        """See `Sink`."""
        whole = {name: value for name, value in record.items() if value is not None}
        if row is not None:
            whole[self._tensor] = row.tolist()
        self._stream.write(json.dumps(whole, allow_nan=False, ensure_ascii=False) + "\n")
        self._stream.flush()


class Array:
    """A .npy file: one row an item, in the order of the items. An item with an error has NaN, so that none shifts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[NDArray[Any] | None] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        first = next((row for row in self._rows if row is not None), None)
        if error is not None or first is None:
            return
        empty = np.full_like(first, np.nan)
        whole = np.stack([empty if row is None else row for row in self._rows])
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            with part.open("wb") as file:
                np.save(file, whole)
            os.replace(part, self._path)  # noqa: PTH105
        finally:
            part.unlink(missing_ok=True)

    def write(self, record: Record, row: NDArray[Any] | None) -> None:
        """See `Sink`."""
        self._rows.append(row)


class Pictures:
    """A folder of PNG files, each named after its item, with a number where two would have one name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = FileNames()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def write(self, record: Record, row: NDArray[Any] | None) -> None:
        """See `Sink`. Raises Unsupported if the row is no image, or Pillow is missing."""
        if row is None:
            return
        if row.ndim != 3 or row.shape[2] not in (1, 3):
            raise Unsupported(f"out: rows of shape {list(row.shape)} are no pictures, expected a .npy file for them")
        try:
            from PIL import Image
        except ImportError as error:
            raise Unsupported("out: pictures need Pillow: pip install pillow, or name a .npy file") from error
        pixels = np.rint(np.clip(row, 0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels[:, :, 0] if row.shape[2] == 1 else pixels).save(
            self._folder / f"{self._names.of(str(record['item']))}.png"
        )


class FileNames:
    """Names of files after items, with a number where two would have one name."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def of(self, name: str) -> str:
        """The name of an item's file, without ending."""
        found = _ROW.fullmatch(Path(name).name)
        assert found is not None  # it matches everything
        stem = Path(found[1]).stem + (f"-{found[2]}" if found[2] else "")
        numbers = itertools.count(2)
        one = stem
        while one in self._names:
            one = f"{stem}-{next(numbers)}"
        self._names.add(one)
        return one


def sink(out: Path | None, form: str | None, columns: tuple[str, ...], tensor: str = "", force: bool = False) -> Sink:
    """Where to write.

    Args:
        out: file, whose ending says what is in it; a folder for pictures; None: standard output.
        form: one of FORMATS, on standard output; default: table.
        columns: of every record, `item` the first.
        tensor: what the tensor of an item is called; empty: there is none.
        force: write over what is there.

    Raises:
        InvalidInput: that cannot be written there, or something is there.
    """
    if out is None:
        if form in (None, "table"):
            return Table(sys.stdout)
        return Csv(sys.stdout, columns, False) if form == "csv" else JsonLines(sys.stdout, tensor, False)
    suffix = out.suffix.lower()
    if tensor == "reconstruction" and suffix == "":
        return Pictures(out)
    check_file(out, tensor, force)
    if suffix == ARRAY:
        return Array(out)
    stream = out.open("w", encoding="utf-8", newline="")
    return Csv(stream, columns, True) if SUFFIXES[suffix] == "csv" else JsonLines(stream, tensor, True)


def check_file(out: Path, tensor: str = "", force: bool = False) -> None:
    """Raises InvalidInput if `sink` could not write that file, before any work is done."""
    folder = ", or a folder for pictures" if tensor == "reconstruction" else ""
    known = [*SUFFIXES, *([ARRAY] if tensor else [])]
    if out.suffix.lower() not in known:
        raise InvalidInput.at("out", got=str(out), expected=f"a file that ends in one of {' '.join(known)}{folder}")
    check_new("out", out, force)


def check_new(field: str, path: Path, force: bool) -> None:
    """Raises InvalidInput if a file is there, unless it may be written over, or its folder is not."""
    if path.exists() and not force:
        raise InvalidInput.at(field, got=f"{path}, which exists", expected="a new file, or --force to write over it")
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidInput.at(field, got=str(path), expected="a file in a folder that exists")


def _done(stream: TextIO, owned: bool) -> None:
    stream.close() if owned else stream.flush()


def _aligned(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "FLAGGED" if value else "ok     "
    if isinstance(value, float):
        return f"{name} {value:<10.4g}"
    return f"{name} {value}"
