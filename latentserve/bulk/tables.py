"""Items in a column of a Parquet file: their bytes, or paths to them. Needs pyarrow (extra `bulk`)."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentserve.errors import InvalidInput

GROUPS = 4
"""Row groups that are held: items are read in their order, by a few threads."""
BYTES = "bytes"
"""Of a struct, as data sets of Hugging Face have it."""
_LOCK = threading.Lock()


def column_of(file: str, column: str) -> int | list[str | None]:
    """How many rows of bytes a column has; or the paths in it.

    Raises:
        InvalidInput: the file cannot be read, or has no such column, or it is of neither.
    """
    try:
        table = pq.ParquetFile(file)
        schema = table.schema_arrow
        if column not in schema.names:
            raise InvalidInput.at("column", got=repr(column), expected=f"one of {schema.names}, which {file} has")
        kind = schema.field(column).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            paths: list[str | None] = table.read(columns=[column])[column].to_pylist()
            return paths
        if _holds_bytes(kind):
            return int(table.metadata.num_rows)
    except (OSError, KeyError, UnicodeError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise InvalidInput.at("inputs", got=file, expected=f"a Parquet file that can be read ({why})") from error
    raise InvalidInput.at("column", got=f"{column} of {kind}", expected="bytes, paths, or a struct with bytes in it")


def columns_of_bytes(file: str) -> list[str]:
    """The columns that hold bytes, or structs with bytes in them; none if the file cannot be read."""
    try:
        return [field.name for field in pq.read_schema(file) if _holds_bytes(field.type)]
    except (OSError, pa.ArrowException):
        return []


def cell(file: str, column: str, row: int) -> bytes | None:
    """The bytes in a row; None where there are none. Raises OSError or pyarrow's errors: it cannot be read."""
    with _LOCK:  # else threads that work on one group would each read it
        ends = _ends(file)
        number = int(np.searchsorted(ends, row, side="right"))
        group = _group(file, column, number)
    found = group[row - (int(ends[number - 1]) if number else 0)].as_py()
    value: bytes | None = found[BYTES] if isinstance(found, dict) else found
    return value


def _holds_bytes(kind: Any) -> bool:
    return _is_bytes(kind) or (
        pa.types.is_struct(kind) and any(one.name == BYTES and _is_bytes(one.type) for one in kind)
    )


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@lru_cache(maxsize=GROUPS)
def _ends(file: str) -> Any:
    """The row after the last of each row group."""
    metadata = pq.ParquetFile(file).metadata
    return np.cumsum([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])


@lru_cache(maxsize=GROUPS)
def _group(file: str, column: str, number: int) -> Any:
    return pq.ParquetFile(file).read_row_group(number, columns=[column])[column]
