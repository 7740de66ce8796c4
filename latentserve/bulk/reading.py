"""The bytes of an item, and the id that follows from them."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import NamedTuple

from latentserve.bulk.listing import WHOLE, Item


class Given(NamedTuple):
    """An item that was read, or why it was not.

    Attributes:
        item: which.
        id: sha256 of its bytes in hex; None if they could not be read.
        data: the bytes; empty with an error.
        error: what is wrong with it; None if nothing is.
    """

    item: Item
    id: str | None
    data: bytes
    error: str | None


def read(item: Item, most_bytes: int) -> Given:
    """Reads an item, of at most so many bytes."""
    try:
        data = _cell(item) if item.column else _bytes(item, most_bytes)
    except (OSError, ValueError, LookupError, NotImplementedError) as error:  # pyarrow's are some of these
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        return Given(item, None, b"", f"got {item.source!r}, expected a file that can be read ({why})")
    if len(data) > most_bytes:
        return Given(item, None, b"", f"got more than {most_bytes} bytes, expected at most {most_bytes}")
    return Given(item, hashlib.sha256(data).hexdigest(), data, None)


def _bytes(item: Item, most_bytes: int) -> bytes:
    """Of a file or a part of one: at most one byte more than it may have."""
    with open(os.open(item.file, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 (it is open: a pipe would wait)
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no regular file")
        if item.place != WHOLE:
            file.seek(item.place)
        size = found.st_size if item.place == WHOLE else item.size_bytes
        return file.read(min(size, most_bytes + 1))


def _cell(item: Item) -> bytes:
    from latentserve.bulk.tables import cell

    data = cell(item.file, item.column, item.place)
    if data is None:
        raise ValueError(f"nothing is in its column {item.column}")
    return data
