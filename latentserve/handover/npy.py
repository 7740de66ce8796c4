"""An array of the embeddings, [n, D] as the job has them (float32 or 16), and a CSV of what each row is.

`np.load("vectors.npy", mmap_mode="r")` takes no memory. The header has room for any number of rows, so that rows are
written as they come and counted at the end.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from latentserve.bulk.rows import Block
from latentserve.bulk.schema import Job
from latentserve.cli.beside import beside
from latentserve.cli.sinks import check_new

ARRAY, NAMES = ".npy", ".csv"


def names_of(path: Path) -> Path:
    """The CSV beside an array: row k + 1 after its heading is row k of the array."""
    return path.with_suffix(NAMES)


def check(path: Path, force: bool) -> None:
    """Raises InvalidInput if one of the two files is there, or cannot be."""
    check_new("to", path, force)
    check_new("to", names_of(path), force)


def write(path: Path, job: Job, columns: list[str], blocks: Iterable[Block]) -> None:
    """Writes both files, each whole or not at all. Raises OSError that names the file.

    Args:
        path: of the array.
        job: whose rows these are.
        columns: of the CSV, all in `others` of the blocks.
        blocks: the rows.
    """
    kind, num = np.dtype(np.float16 if job.half else np.float32), 0
    with beside(path, names_of(path)) as (array_part, names_part), array_part.open("wb") as array:
        with names_part.open("w", encoding="utf-8", newline="") as names:
            lines = csv.writer(names, lineterminator="\n")
            lines.writerow(columns)
            start = _header(array, kind, 0, job.embedding_size)
            for block in blocks:
                array.write(np.ascontiguousarray(block.embeddings, kind).data)
                lines.writerows(zip(*(_cells(block.others.column(name)) for name in columns), strict=True))
                num += len(block.rows)
        array.seek(0)
        if _header(array, kind, num, job.embedding_size) != start:
            raise AssertionError("numpy leaves room in a header for the number of rows to grow")


def _header(file: Any, kind: np.dtype[Any], num: int, size: int) -> int:
    """Where the rows begin."""
    head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (num, size)}
    np.lib.format.write_array_header_1_0(file, head)
    return int(file.tell())


def _cells(column: Any) -> list[Any]:
    return [str(value).lower() if isinstance(value, bool) else value for value in column.to_pylist()]
