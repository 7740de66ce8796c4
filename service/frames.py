"""The wire format of HTTP/2: frames and their numbers, and header blocks. Source: RFC 9113, RFC 7541."""

from __future__ import annotations

import struct

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x6
REFUSED_STREAM, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x9, 0xB

MAX_FRAME_BYTES = 2**18
STREAM_WINDOW_BYTES = 2**20
CONNECTION_WINDOW_BYTES = 2**24
MAX_HEADER_BYTES = 16 * 1024
MAX_STREAMS = 1000
MAX_SEEN_BLOCKS = 64
DEFAULT_WINDOW_BYTES = 65_535
LARGEST_WINDOW_BYTES = 2**31 - 1

SETTINGS_PAYLOAD = b"".join(
    struct.pack(">HI", name, value)
    for name, value in ((0x3, MAX_STREAMS), (0x4, STREAM_WINDOW_BYTES), (0x5, MAX_FRAME_BYTES), (0x6, MAX_HEADER_BYTES))
)
FRAME_HEAD = struct.Struct(">HBBBI")  # length (24 bits in two parts), type, flags, stream


class ProtocolError(Exception):
    """The peer broke the protocol; the connection is closed with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def literal_headers(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """A header block that touches no table: literals without indexing, without Huffman (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, encoded = len(text) - 127, bytearray([127])
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    encoded.append(rest)
    return bytes(encoded) + text


def unpadded(flags: int, payload: bytes) -> bytes:
    """A payload of DATA or HEADERS without its padding.

    Raises:
        ProtocolError: the padding is longer than the frame.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "got padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


class HeaderDecoder:
    """Header blocks to headers; a block that was seen before costs a look-up.

    A client repeats itself: after its first request every block is mostly indices. Decoding the same bytes again gives
    the same headers as long as the compression table has not changed; what is kept is dropped whenever it has.
    """

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._seen: dict[bytes, dict[bytes, bytes]] = {}

    def decode(self, block: bytes) -> dict[bytes, bytes]:
        """Headers by name.

        Raises:
            ProtocolError: the block is malformed.
        """
        headers = self._seen.get(block)
        if headers is not None:
            return headers
        before = self._state()
        try:
            headers = dict(self._decoder.decode(block, raw=True))
        except hpack.HPACKError as error:
            raise ProtocolError(COMPRESSION_ERROR, str(error)) from error
        if self._state() != before or len(self._seen) == MAX_SEEN_BLOCKS:
            self._seen.clear()
        else:
            self._seen[block] = headers
        return headers

    def _state(self) -> tuple[int, int, int]:
        """Changes whenever the table does: entries come in at the front and go out at the back."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return len(entries), id(entries[0]) if entries else 0, table.maxsize
