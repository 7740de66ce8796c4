"""Rows that a job has written, read as a stream: a few thousand are in memory at once. Needs pyarrow (extra `bulk`).

A job that still runs may be read: what it has written is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from latentserve.bulk import folder
from latentserve.bulk.schema import EMBEDDING, Job, schema
from latentserve.errors import InvalidInput

BLOCK_ROWS = 4096
"""Read together: few enough that float64 copies of them stay in a core's cache."""


@dataclass(frozen=True)
class Written:
    """What a job has written.

    Attributes:
        path: of its folder.
        job: what it is.
        parts: in their order.
    """

    path: Path
    job: Job
    parts: tuple[Path, ...]


class Block(NamedTuple):
    """Some rows of a part, those without an embedding left out.

    Attributes:
        rows: their places in the part, int64 [n].
        embeddings: float32 or float16 [n, D].
        others: what else was asked for, by column, n each.
        num_failed: rows that were left out.
    """

    rows: NDArray[np.int64]
    embeddings: NDArray[Any]
    others: pa.RecordBatch
    num_failed: int


class Place(NamedTuple):
    """A row: number of its part among the parts that there are, and of the row in it."""

    part: int
    row: int


def written(path: Path) -> Written:
    """The rows of a job that embedded.

    Raises:
        InvalidInput: it is no folder of a job, or has no embeddings.
    """
    try:
        job = folder.job_at(path)
        parts = folder.parts_of(path) if job else []
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput.at("job", got=repr(str(path)), expected=f"the folder of a job ({why})") from error
    if job is None:
        expected = f"the folder of a job, with {folder.JOB} in it (latentserve embed ... --to FOLDER.parquet)"
        raise InvalidInput.at("job", got=repr(str(path)), expected=expected)
    if EMBEDDING not in job.columns:
        got = f"{path}, a job of {', '.join(job.columns)}"
        raise InvalidInput.at("job", got=got, expected="one with embeddings (embed, or score with --embeddings)")
    if not parts:
        raise InvalidInput.at("job", got=f"{path} without a row", expected="a job that has written some")
    return Written(path, job, tuple(path / name for name in parts))


def blocks(of: Written, part: int, columns: Sequence[str] = ()) -> Iterator[Block]:
    """The rows of a part that have an embedding of finite numbers.

    Args:
        of: a job.
        part: number of the part.
        columns: that are wanted, too.

    Raises:
        InvalidInput: the part is broken, or none of this job.
    """
    first = 0
    with _part(of, part) as file:
        for batch in file.iter_batches(BLOCK_ROWS, columns=[EMBEDDING, *columns], use_threads=False):
            lists = batch.column(EMBEDDING)
            at = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))
            numbers = lists.flatten().to_numpy().reshape(len(at), of.job.embedding_size)
            finite = np.isfinite(numbers).all(axis=1)
            if not finite.all():
                at, numbers = at[finite], numbers[finite]
            others = batch.select(list(columns))
            if len(at) < batch.num_rows:
                others = others.take(pa.array(at))
            yield Block(first + at, numbers, others, batch.num_rows - len(at))
            first += batch.num_rows


def all_blocks(of: Written, columns: Sequence[str] = ()) -> Iterator[Block]:
    """The rows of all parts, see `blocks`."""
    for part in range(len(of.parts)):
        yield from blocks(of, part, columns)


def count(of: Written) -> int:
    """All rows, with an embedding or without one. Raises InvalidInput: a part is broken."""
    total = 0
    for part in range(len(of.parts)):
        with _part(of, part) as file:
            total += file.metadata.num_rows
    return total


def taken(of: Written, places: Sequence[Place], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows by their places, in that order: their values by column.

    Raises:
        InvalidInput: a part is broken.
    """
    found: dict[Place, dict[str, Any]] = {}
    for part in sorted({place.part for place in places}):
        mine = [place for place in places if place.part == part]
        with _part(of, part) as file:
            table = file.read(columns=list(columns)).take([place.row for place in mine])
        found |= zip(mine, table.to_pylist(), strict=True)
    return [found[place] for place in places]


def place_of(of: Written, name: str) -> Place | None:
    """The first row of that id, or of that source; None if there is none.

    Raises:
        InvalidInput: a part is broken.
    """
    for part in range(len(of.parts)):
        with _part(of, part) as file:
            table = file.read(columns=["id", "source"])
        for column in ("id", "source"):
            row = pc.index(table[column], name).as_py()
            if row >= 0:
                return Place(part, row)
    return None


@contextlib.contextmanager
def _part(of: Written, number: int) -> Iterator[Any]:
    path = of.parts[number]
    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            if not file.schema_arrow.equals(schema(of.job)):
                raise pa.ArrowInvalid("other columns than the job's")
            yield file
    except (pa.ArrowException, OSError, UnicodeError) as error:
        what = str(error).splitlines()[0]
        raise InvalidInput.at("job", got=str(path), expected=f"a part of a job that can be read ({what})") from error
