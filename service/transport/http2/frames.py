"""The wire format of HTTP/2: frames and their numbers. Source: RFC 9113, 4 and 6."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(0x2, 0x7)

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x5, 0x6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x8, 0x9, 0xB

DEFAULT_WINDOW_BYTES = 65_535
LARGEST_WINDOW_BYTES = LARGEST_STREAM_ID = 2**31 - 1
DEFAULT_FRAME_BYTES, LARGEST_FRAME_BYTES = 2**14, 2**24 - 1

FRAME_HEAD = struct.Struct(">HBBBI")  # length (24 bits in two parts), type, flags, stream


class ProtocolError(Exception):
    """The peer broke the protocol; the connection is closed with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamError(Exception):
    """The peer broke the protocol on one stream, which is reset with this code; the others do not notice."""

    def __init__(self, stream_id: int, code: int, message: str) -> None:
        super().__init__(message)
        self.stream_id = stream_id
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def reset(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4))


def window_update(stream_id: int, more: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream_id, more.to_bytes(4))


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


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
    if not payload:
        raise ProtocolError(FRAME_SIZE_ERROR, "got a padded frame without the length of its padding")
    if payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "got padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
