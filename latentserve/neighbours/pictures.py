"""What a page shows of an item: a small picture, a sound, or why there is none. Needs Pillow.

A job keeps where an item was, not its bytes: they are read again where they can be found, and have to be the same.
"""

from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from latentserve.bulk.listing import SHARDS, TABLES, Item, members
from latentserve.bulk.reading import read
from latentserve.bulk.tables import columns_of_bytes
from latentserve.cli.sources import SOUNDS
from latentserve.errors import InvalidInput

SIDE = 192
"""Pixels of the longer side of a picture."""
PIXELATED = 96
"""Pictures of at most so many pixels a side stay as they are, and a browser shows their pixels."""
MOST_BYTES = 64 << 20
"""Of an item, as a server's limit is by default."""
MOST_SOUND_BYTES = 2 << 20
"""Of a sound in a page, which holds it whole."""
QUALITY = 85
SHARDS_HELD = 4
_IN_SHARD = re.compile("|".join(re.escape(kind) + "/" for kind in sorted(SHARDS)), re.IGNORECASE)
_IN_TABLE = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


def shown(source: str, sha256: str | None, column: str | None = None) -> str:
    """An item as HTML.

    Args:
        source: what a job calls it.
        sha256: that its bytes must have; None: they may be any.
        column: of Parquet tables; None: the only one of bytes.
    """
    try:
        data = bytes_of(source, sha256, column)
        if Path(source).suffix.lower() in SOUNDS:
            return _sound(data)
        return _picture(data)
    except InvalidInput as error:
        return f'<div class="none">{escape(str(error))}</div>'


def bytes_of(source: str, sha256: str | None, column: str | None = None) -> bytes:
    """The bytes of an item.

    Raises:
        InvalidInput: they are not there, or other ones.
    """
    given = read(_item(source, column), MOST_BYTES)
    if given.error is not None:
        raise InvalidInput(given.error)
    if sha256 not in (None, given.id):
        raise InvalidInput("changed since it was embedded")
    return given.data


def _item(source: str, column: str | None) -> Item:
    """Where it is: a file of that name, or a member of a shard, or a row of a table."""
    if Path(source).exists():
        return Item(source)
    for found in _IN_SHARD.finditer(source):
        shard = source[: found.end() - 1]
        if Path(shard).is_file():
            return _members(shard).get(source, Item(source))
    if (row := _IN_TABLE.fullmatch(source)) and Path(row[1]).suffix.lower() in TABLES and Path(row[1]).is_file():
        return Item(row[1], int(row[2]), column=column or _only_column(row[1]))
    return Item(source)


def _only_column(table: str) -> str:
    columns = columns_of_bytes(table)
    if len(columns) != 1:
        raise InvalidInput.at("column", got="none", expected=f"the one of bytes, of {columns} which {table} has")
    return columns[0]


@lru_cache(maxsize=SHARDS_HELD)
def _members(shard: str) -> dict[str, Item]:
    return {item.source: item for item in members(shard)}


def _picture(data: bytes) -> str:
    from latentserve.overlay import opened

    image: Any = opened(data)
    if max(image.size) <= PIXELATED:
        return _image(image, "png", "coarse")
    image.thumbnail((SIDE, SIDE))
    return _image(image, "jpeg", "fine")


def _image(image: Any, form: str, how: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=QUALITY)
    return f'<img class="{how}" alt="" src="{_inlined(buffer.getvalue(), f"image/{form}")}">'


def _sound(data: bytes) -> str:
    if len(data) > MOST_SOUND_BYTES:
        raise InvalidInput.at("sound", got=f"{len(data)} bytes", expected=f"at most {MOST_SOUND_BYTES} in a page")
    kind = "flac" if data[:4] == b"fLaC" else "wav"
    return f'<audio controls src="{_inlined(data, f"audio/{kind}")}"></audio>'


def _inlined(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
