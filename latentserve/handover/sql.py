"""A file for psql: a table of PostgreSQL with the extension pgvector, as pg_dump would write it.

All is one transaction. Rows go to a table of the session first, by COPY: those which are there are written over.
The check of `embedding_space` is that of the first file: another space's rows are refused by PostgreSQL itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentserve.bulk.rows import Block
from latentserve.bulk.schema import Job
from latentserve.cli.beside import beside
from latentserve.errors import InvalidInput

MOST_NUMBERS = 16_000
"""Of a `vector`. Source: pgvector, README, "vector"."""
TYPES = {"id": "text NOT NULL", "source": "text PRIMARY KEY", "p_value": "double precision", "flagged": "boolean"}
KEY = "source"
NULL = r"\N"
ESCAPED = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
"""Source: PostgreSQL, COPY, "Text Format"."""


def check(job: Job) -> None:
    """Raises InvalidInput if PostgreSQL does not take such rows."""
    if job.embedding_size > MOST_NUMBERS:
        expected = f"at most {MOST_NUMBERS} numbers, which pgvector takes"
        raise InvalidInput.at("to", got=f"embeddings of {job.embedding_size}", expected=expected)


def write(path: Path, job: Job, columns: list[str], table: str, blocks: Iterable[Block]) -> None:
    """Writes the file, whole or not at all. Raises OSError that names the file.

    Args:
        path: of the file.
        job: whose rows these are.
        columns: of TYPES, all in `others` of the blocks.
        table: its name.
        blocks: the rows.
    """
    with beside(path) as (part,), part.open("w", encoding="utf-8", newline="") as file:
        file.write(_head(job, columns, table))
        for block in blocks:
            texts = [*(_texts(block.others.column(name)) for name in columns), vectors(block.embeddings)]
            file.writelines("\t".join(row) + "\n" for row in zip(*texts, strict=True))
        file.write(_tail(job, columns, table))


def _head(job: Job, columns: list[str], table: str) -> str:
    space = job.embedding_space.replace("'", "''")
    kinds = "".join(f"  {name} {TYPES[name]},\n" for name in columns)
    return (
        "-- psql -d DATABASE -f THIS_FILE\n"
        f"-- SELECT source FROM {table} ORDER BY embedding <=> '[...]' LIMIT 20;  -- <=> cosine, <-> euclidean\n"
        "\\set ON_ERROR_STOP on\n"
        "BEGIN;\n"
        "SET LOCAL client_encoding = 'UTF8';\n"
        "SET LOCAL standard_conforming_strings = on;\n"
        "CREATE EXTENSION IF NOT EXISTS vector;\n"
        f"CREATE TABLE IF NOT EXISTS {table} (\n{kinds}"
        f"  embedding vector({job.embedding_size}) NOT NULL,\n"
        f"  embedding_space text NOT NULL DEFAULT '{space}' CHECK (embedding_space = '{space}')\n);\n"
        f"CREATE TEMP TABLE given (LIKE {table} INCLUDING DEFAULTS) ON COMMIT DROP;\n"
        f"COPY given ({', '.join([*columns, 'embedding'])}) FROM stdin;\n"
    )


def _tail(job: Job, columns: list[str], table: str) -> str:
    space = job.embedding_space.replace("'", "''")
    names = ", ".join([*columns, "embedding"])
    changed = ", ".join(f"{name} = excluded.{name}" for name in [*columns, "embedding"] if name != KEY)
    return (
        "\\.\n"
        f"INSERT INTO {table} ({names}, embedding_space) SELECT {names}, '{space}' FROM given\n"
        f"  ON CONFLICT ({KEY}) DO UPDATE SET {changed};\n"
        "COMMIT;\n"
    )


def vectors(embeddings_ND: Any) -> list[str]:
    """As pgvector reads them, each number in as many digits as tell it from its neighbours."""
    num, size = embeddings_ND.shape
    numbers = pc.cast(pa.array(embeddings_ND.astype(np.float32).ravel()), pa.string())
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * size)
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, numbers), ",")
    return [f"[{row}]" for row in joined.to_pylist()]


def _texts(column: Any) -> list[str]:
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "t" if value else "f"
    return "".join(ESCAPED.get(letter, letter) for letter in value) if isinstance(value, str) else repr(value)
