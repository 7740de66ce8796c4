"""Folders of jobs for tests of what reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from latentserve.bulk import folder
from latentserve.bulk.schema import Answers, Job, table

SPACE = "es-fake"


def write_job(
    path: Path,
    embeddings_ND: NDArray[Any],
    sources: Sequence[str] | None = None,
    *,
    failed: Sequence[int] = (),
    part_rows: int = 7,
    scores: bool = False,
    same: Sequence[tuple[int, int]] = (),
) -> Path:
    """A job of these embeddings. Rows of `failed` have an error; of two of `same` the second has the first's bytes."""
    half = embeddings_ND.dtype == np.float16
    columns = ("embedding", *(("p_value", "flagged") if scores else ()))
    size = embeddings_ND.shape[1]
    job = Job(1, "fake", 1, SPACE, "", columns, size, half, 0.05 if scores else 0.0, "", part_rows)
    sources = sources or [f"photos/{number}.png" for number in range(len(embeddings_ND))]
    ids = [id_of(str(number).encode()) for number in range(len(embeddings_ND))]
    for first, second in same:
        ids[second] = ids[first]
    with folder.opened(path) as to:
        to.begin(job)
        for at in range(0, len(embeddings_ND), part_rows):
            rows = range(at, min(at + part_rows, len(embeddings_ND)))
            values = np.linspace(0, 1, len(rows)), np.arange(len(rows)) % 2 == 0
            answers = Answers(
                [sources[row] for row in rows],
                [ids[row] for row in rows],
                ["got '!', expected anything else" if row in failed else None for row in rows],
                embeddings_ND[rows.start : rows.stop].astype(np.float32),
                *(values if scores else ()),
            )
            to.write(table(job, [answers]))
    return path


def damage(part: Path) -> None:
    """One bit of an embedding is another."""
    column = next(
        one
        for one in (pq.ParquetFile(part).metadata.row_group(0).column(number) for number in range(10))
        if one.path_in_schema.startswith("embedding.")
    )
    data = bytearray(part.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    part.write_bytes(data)


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
