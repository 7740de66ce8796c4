"""How gRPC looks on HTTP/2: messages with a prefix, timeouts, statuses.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import math
import struct
from urllib.parse import quote

from service.api import retry
from service.api.calls import Answer, Ended, clipped
from service.transport.http2.frames import ENHANCE_YOUR_CALM, literal_headers
from service.transport.http2.stream import Stream

CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 1, 2, 4, 8, 12, 13
NAMES = {
    CANCELLED: "CANCELLED",
    DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    UNIMPLEMENTED: "UNIMPLEMENTED",
    INTERNAL: "INTERNAL",
}
"""Of the statuses that a call may end with before its request is whole."""
PREFIX = struct.Struct(">BI")  # compressed?, bytes of the message
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

ENCODINGS = b"identity,gzip"
_HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", ENCODINGS))
HEAD = literal_headers(_HEAD)
GZIP_HEAD = literal_headers((*_HEAD, (b"grpc-encoding", b"gzip")))
DONE = literal_headers(((b"grpc-status", b"0"),))
NOT_GRPC_TEXT = b"expected gRPC: POST, content-type application/grpc\n"
NOT_GRPC = literal_headers(
    ((b":status", b"415"), (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(NOT_GRPC_TEXT)))
)
NOT_A_CALL = literal_headers(((b"grpc-status", b"12"),))
RETRY_AFTER_SECONDS = 1.0
"""After which memory is free again, as good a guess as any: most calls take less."""
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def too_large(max_bytes: int) -> Ended:
    """Of a message over the limit."""
    return Ended(
        RESOURCE_EXHAUSTED, f"request: got more than {max_bytes} bytes, expected at most that many", retry.NEVER
    )


def no_room(what: str) -> Ended:
    """Of a call for which there is no memory now."""
    return Ended(RESOURCE_EXHAUSTED, what, retry.after(RETRY_AFTER_SECONDS, math.inf))


UNREAD = no_room("answer: there is no room for it while its client reads no others")


def cut_prefix(head: bytes | bytearray, encoding: bytes) -> tuple[bool, int]:
    """Whether the message that begins here is compressed, and its bytes.

    Raises:
        Ended: its flag is none, or it is compressed in a way that we cannot undo, or that was not told.
    """
    flag, size = PREFIX.unpack_from(head)
    if flag > 1:
        raise Ended(INTERNAL, f"request: got the compressed-flag {flag}, expected 0 or 1")
    if flag and encoding in (b"", b"identity"):
        raise Ended(INTERNAL, "request: got a compressed message, expected grpc-encoding to say how")
    if flag and encoding != b"gzip":
        got = encoding.decode("ascii", "backslashreplace")
        raise Ended(UNIMPLEMENTED, f"grpc-encoding: got {got!r}, expected {ENCODINGS.decode()}")
    return bool(flag), size


def framed(message: bytes, compressed: bool = False) -> bytes:
    """A message with its prefix."""
    return PREFIX.pack(compressed, len(message)) + message


def end(stream: Stream, answer: Answer) -> None:
    """Ends a stream with a status: a response of trailers alone if nothing was sent before."""
    headers = [
        (b"grpc-status", str(int(answer.code)).encode()),
        (b"grpc-message", quote(clipped(answer.message), safe=_PRINTABLE).encode()),
        *((name.encode(), value.encode()) for name, value in answer.trailing),
    ]
    stream.send(b"", b"", (b"" if stream.answering else HEAD) + literal_headers(tuple(headers)))


def is_grpc(headers: dict[bytes, bytes]) -> bool:
    """Whether a request is a call: `application/grpc`, `application/grpc+proto`, not `application/grpc-web`."""
    content_type = headers.get(b"content-type", b"")
    return headers.get(b":method") == b"POST" and (
        content_type == b"application/grpc" or content_type.startswith((b"application/grpc+", b"application/grpc;"))
    )


def refuse(stream: Stream) -> None:
    """Answers what is no call. Whoever sent it may not be prepared for an answer before its request is whole."""
    stream.hears_out = True
    if stream.headers.get(b":method") == b"HEAD":
        stream.send(b"", b"", NOT_GRPC)
    elif not stream.send(NOT_GRPC, NOT_GRPC_TEXT, NOT_A_CALL):
        stream.cancel(ENHANCE_YOUR_CALM)


def seconds(timeout: bytes | None) -> float:
    """grpc-timeout: at most eight digits and a unit.

    Raises:
        ValueError: it is something else.
    """
    if timeout is None:
        return math.inf
    if not timeout[:-1].isdigit() or len(timeout) > 9 or timeout[-1:] not in UNITS:
        raise ValueError(timeout)
    return int(timeout[:-1]) * UNITS[timeout[-1:]]
