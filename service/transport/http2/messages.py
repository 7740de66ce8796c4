"""The messages of gRPC out of the bodies of HTTP/2: the one of a unary call, or those that a client streams.

What came is held against the connection's share (`budget`) from its first byte until the call is answered. A message
that there is no room for is rejected as soon as its size is known, before it comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from service.api.calls import Ended
from service.transport.http2.budget import Hold
from service.transport.http2.compression import inflate
from service.transport.http2.grpc_framing import INTERNAL, PREFIX, cut_prefix, no_room, too_large
from service.transport.http2.stream import Stream


class Body:
    """The body of a unary request: one message.

    Args:
        stream: where it comes from.
        max_bytes: of the message.
    """

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._encoding = stream.headers.get(b"grpc-encoding", b"")
        self._hold = Hold(stream.connection.received)
        self._came = bytearray()
        self._told = -1

    def __len__(self) -> int:
        return len(self._came)

    def received(self, data: bytes, ended: bool) -> tuple[bool, bytes] | None:
        """More came. Returns whether the message is compressed, and the message, once it is whole.

        Raises:
            Ended: it is no message, or a larger one than may be.
        """
        if not self._hold.take(len(data)):
            raise no_room(f"request: got {len(self._came) + len(data)} bytes, for which there is no room now")
        if not ended or self._came:
            self._came += data
        came = self._came or data
        if len(came) > self._max_bytes + PREFIX.size:
            raise too_large(self._max_bytes)
        if len(came) < PREFIX.size:
            if ended:
                raise Ended(INTERNAL, f"request: got {len(came)} bytes, expected one message")
            return None
        compressed, size = cut_prefix(came, self._encoding)
        got = len(came) - PREFIX.size
        if self._told < 0:
            self._told = size
            if size > self._max_bytes:
                raise too_large(self._max_bytes)
            if not self._hold.fits(size):
                raise no_room(f"request: got the beginning of {size} bytes, for which there is no room now")
        if got > size or (ended and got < size):
            raise Ended(INTERNAL, f"request: got {got} bytes, expected a message of {size}")
        if not ended:
            return None
        message = bytes(memoryview(came)[PREFIX.size :])
        self._came = bytearray()
        return compressed, message

    async def inflated(self, message: bytes) -> bytes:
        """A compressed message as it was.

        Raises:
            Ended: see `inflate`.
        """
        return await inflate(message, self._max_bytes, self._hold)

    def release(self) -> None:
        """The call is over."""
        self._came = bytearray()
        self._hold.release()


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
        self._encoding = stream.headers.get(b"grpc-encoding", b"")
        self._hold = Hold(stream.connection.received)
        self._taken: deque[int] = deque()  # bytes of those that are not answered
        self._buffer = bytearray()
        self._ended = False
        self._wrong: Ended | None = None
        self._changed = asyncio.Event()
        stream.reading = False

    @property
    def in_part(self) -> bool:
        """Whether a message has begun that is not whole, and is waited for."""
        return bool(self._buffer) and self._stream.reading and not self._ended

    def received(self, data: bytes, ended: bool) -> None:
        """More came."""
        if not self._hold.take(len(data)):
            self._wrong = no_room(f"request: got {len(data)} bytes, for which there is no room now")
        elif self._wrong is None:
            self._buffer += data
        self._ended = ended
        self._changed.set()

    def answered(self) -> None:
        """The oldest message that was taken is."""
        if self._taken:
            self._hold.release(self._taken.popleft())

    def release(self) -> None:
        """The call is over."""
        self._buffer = bytearray()
        self._hold.release()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next message.

        Raises:
            Ended: what came is no message, or a larger one than may be.
        """
        while (cut := self._cut()) is None:
            if self._wrong is not None:
                raise self._wrong
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
        compressed, message = cut
        if not compressed:
            return message
        inflated = await inflate(message, self._max_bytes, self._hold)
        self._taken[-1] += len(inflated)
        return inflated

    def _cut(self) -> tuple[bool, bytes] | None:
        if len(self._buffer) < PREFIX.size:
            return None
        compressed, num_bytes = cut_prefix(self._buffer, self._encoding)
        if num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        end = PREFIX.size + num_bytes
        if len(self._buffer) < end:
            if not self._hold.fits(end):
                raise no_room(f"request: got the beginning of {num_bytes} bytes, for which there is no room now")
            return None
        message = bytes(memoryview(self._buffer)[PREFIX.size : end])
        del self._buffer[:end]
        self._taken.append(end)
        return compressed, message
