"""Header blocks to headers, and what is wrong with them. Source: RFC 7541; RFC 9113, 8.2 and 8.3."""

from __future__ import annotations

import re
from collections.abc import Iterable

import hpack
from hpack.table import HeaderTable

from service.transport.http2 import frames as wire

MAX_SEEN_BLOCKS = 64
ENTRY_OVERHEAD_BYTES = 32
"""Of a header, beside its name and value (RFC 7541, 4.1)."""
MAX_KNOWN = 256
_KNOWN: set[tuple[bytes, bytes]] = set()
"""Fields that were looked at and are well-formed: the first short ones, which are those that every call has."""
_ORDERS: set[tuple[bytes, ...]] = set()
"""Likewise names of whole requests, each of them once, in an order that may be."""
_NAME = re.compile(rb"[^\x00-\x20A-Z\x7f-\xff:]+")
_VALUE = re.compile(rb"(?:[^\x00\r\n \t](?:[^\x00\r\n]*[^\x00\r\n \t])?)?")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_CONNECTIONS = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})


class Headers(dict[bytes, bytes]):
    """A request's, by name; of several with one name the last.

    Attributes:
        size: of all of them as RFC 9113, 6.5.2 counts.
        fault: what makes the request malformed, or empty.
        content_length: of the body, if it says so.
    """

    __slots__ = ("content_length", "fault", "size")

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        super().__init__(fields)
        self.size = sum(len(name) + len(value) for name, value in fields) + ENTRY_OVERHEAD_BYTES * len(fields)
        once, names = len(self) == len(fields), tuple(self)
        fault = "" if once and names in _ORDERS else _wrong_order(fields)
        if once and not fault and len(_ORDERS) < MAX_KNOWN and self.size < MAX_KNOWN * ENTRY_OVERHEAD_BYTES:
            _ORDERS.add(names)
        self.fault = fault or _wrong_pseudo(self) or wrong_fields(fields)
        if not once:
            self.fault = self.fault or _wrong_twice(fields)
        length = self.get(b"content-length")
        if length is not None and not length.isdigit():
            self.fault = self.fault or f"content-length: got {length!r}, expected digits"
        self.content_length = None if length is None or self.fault else int(length)


class _CountedTable(HeaderTable):
    """Counts whatever may change it."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        """See `hpack`."""
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        """See `hpack`."""
        return HeaderTable.maxsize.fget(self)  # type: ignore[attr-defined, no-any-return]

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


class HeaderDecoder:
    """Header blocks to headers; a block that was seen before costs a look-up.

    A client repeats itself: after its first request every block is mostly indices. Decoding the same bytes again gives
    the same headers as long as the compression table has not changed; what is kept is dropped whenever it has.

    Args:
        max_bytes: of a header list; larger ones are not decoded to their end.
    """

    def __init__(self, max_bytes: int = 256 * 1024) -> None:
        self._table = _CountedTable()
        self._decoder = hpack.Decoder(max_header_list_size=max_bytes)
        self._decoder.header_table = self._table
        self._seen: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """A request's headers.

        Raises:
            ProtocolError: the block cannot be decoded, so that no later one can be.
        """
        headers = self._seen.get(block)
        if headers is not None:
            return headers
        before = self._table.changes
        headers = Headers(self.fields(block))
        if self._table.changes != before:
            self._seen.clear()
        elif len(block) <= ENTRY_OVERHEAD_BYTES * MAX_SEEN_BLOCKS:
            if len(self._seen) >= MAX_SEEN_BLOCKS:
                self._seen.clear()
            self._seen[block] = headers
        return headers

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Names and values, in their order.

        Raises:
            ProtocolError: see `decode`.
        """
        try:
            return list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError as error:
            raise wire.ProtocolError(wire.ENHANCE_YOUR_CALM, str(error)) from error
        except hpack.HPACKError as error:
            self._seen.clear()
            raise wire.ProtocolError(wire.COMPRESSION_ERROR, str(error)) from error


def _wrong_twice(fields: list[tuple[bytes, bytes]]) -> str:
    """8.3.1 and 8.1.1: pseudo-header fields come once, and content-length says one thing."""
    seen: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in seen and (name in _PSEUDO or (name == b"content-length" and seen[name] != value)):
            return f"got {name!r} twice"
        seen[name] = value
    return ""


def _wrong_order(fields: list[tuple[bytes, bytes]]) -> str:
    """8.3: all pseudo-header fields come first, and none but the four of a request."""
    regular = False
    for name, _ in fields:
        if not name.startswith(b":"):
            regular = True
        elif regular:
            return f"got {name!r} after a regular field"
        elif name not in _PSEUDO:
            return f"got {name!r}, expected no other pseudo-header than a request's"
    return ""


def _wrong_pseudo(values: dict[bytes, bytes]) -> str:
    """8.3.1: which of them a request has; 8.5: and which of them CONNECT has."""
    if values.get(b":method") == b"CONNECT":
        ok = b":authority" in values and b":scheme" not in values and b":path" not in values
        return "" if ok else "got CONNECT, expected :authority alone with it"
    for name in (b":method", b":scheme", b":path"):
        if not values.get(name):
            return f"got no {name!r}"
    return ""


def wrong_fields(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """8.2: what names and values are made of, and which belong to a connection."""
    for field in fields:
        if field in _KNOWN:
            continue
        name, value = field
        if name not in _PSEUDO and not _NAME.fullmatch(name):
            return f"got the name {name!r}"
        if not _VALUE.fullmatch(value):
            return f"{name!r}: got a value with a forbidden character"
        if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
            return f"got {name!r}, which belongs to a connection"
        if len(_KNOWN) < MAX_KNOWN and len(value) < ENTRY_OVERHEAD_BYTES:
            _KNOWN.add((name, value))
    return ""
