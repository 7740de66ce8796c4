"""How gRPC looks on HTTP/2: messages with a prefix, timeouts, statuses.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator
from urllib.parse import quote

from service.frames import literal_headers
from service.stream import Stream
from service.transport import Answer, Ended, clipped

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

HEAD = literal_headers(((b":status", b"200"), (b"content-type", b"application/grpc")))
DONE = literal_headers(((b"grpc-status", b"0"),))
NOT_GRPC = literal_headers(((b":status", b"415"),))
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Messages:
    """The messages that a client streams, read from HTTP/2 no faster than they are taken from here.

    While nobody waits for a message the client gets no more room: beyond the message in hand at most a window's bytes
    lie here. The connection's other streams do not feel it.

    Args:
        stream: where they come from.
        max_bytes: of one message.
    """

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._ended = False
        self._changed = asyncio.Event()
        stream.reading = False

    def received(self, data: bytes, ended: bool) -> None:
        """More came."""
        self._buffer += data
        self._ended = ended
        self._changed.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next message.

        Raises:
            Ended: what came is no message, or a larger one than may be.
        """
        while (message := self._cut()) is None:
            if self._ended:
                if self._buffer:
                    raise Ended(INTERNAL, f"request: got {len(self._buffer)} bytes of a message, expected all of it")
                raise StopAsyncIteration
            self._changed.clear()
            self._stream.read_on()
            try:
                await self._changed.wait()
            finally:
                self._stream.reading = False
        return message

    def _cut(self) -> bytes | None:
        if len(self._buffer) < PREFIX.size:
            return None
        compressed, num_bytes = PREFIX.unpack_from(self._buffer)
        if compressed:
            raise Ended(*COMPRESSED)
        if num_bytes > self._max_bytes:
            raise Ended(*too_large(self._max_bytes))
        end = PREFIX.size + num_bytes
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[PREFIX.size : end])
        del self._buffer[:end]
        return message


COMPRESSED = (UNIMPLEMENTED, "request: got a compressed message, expected identity")


def too_large(max_bytes: int) -> tuple[int, str]:
    """The status of a message over the limit."""
    return RESOURCE_EXHAUSTED, f"request: got more than {max_bytes} bytes, expected at most that many"


def fault(body: bytes) -> Answer | None:
    """What is wrong with the framing of a unary request's one message."""
    if len(body) < PREFIX.size:
        return Answer(b"", INTERNAL, f"request: got {len(body)} bytes, expected one message")
    compressed, size = PREFIX.unpack_from(body)
    if compressed:
        return Answer(b"", *COMPRESSED)
    if size != len(body) - PREFIX.size:
        return Answer(b"", INTERNAL, f"request: got {len(body) - PREFIX.size} bytes, expected a message of {size}")
    return None


def framed(message: bytes) -> bytes:
    """A message with its prefix."""
    return PREFIX.pack(0, len(message)) + message


def end(stream: Stream, answer: Answer) -> None:
    """Ends a stream with a status: a response of trailers alone if nothing was sent before."""
    headers = [
        (b"grpc-status", str(int(answer.code)).encode()),
        (b"grpc-message", quote(clipped(answer.message), safe=_PRINTABLE).encode()),
        *((name.encode(), value.encode()) for name, value in answer.trailing),
    ]
    stream.send(b"", b"", (b"" if stream.answering else HEAD) + literal_headers(tuple(headers)))


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
