"""One exchange of HTTP/2, and what answers it: the seam between the protocol and gRPC."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Sender(Protocol):
    """A connection, as a stream sees it."""

    def send(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """See `Stream.send`."""

    def keeps_up(self, stream: Stream) -> bool:
        """Whether all that was sent on the stream is on its way."""

    def widen(self, stream: Stream) -> None:
        """Gives the client room for what was read of the stream's body, if it is time for that."""


class Application(Protocol):
    """What answers requests."""

    def started(self, stream: Stream) -> None:
        """The request's headers are there; its body may follow."""

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """More of the request's body."""

    def reset(self, stream: Stream) -> None:
        """The client went away; nothing can be sent any more."""


class Stream:
    """One exchange.

    Attributes:
        context: the application's to use.
        reading: while False the client gets no more room than it has: at most a window's bytes may still come.
        answering: the response has begun, its headers are gone.
        ended: the whole request is there.
        unread: bytes that came since the client was last given room.
        pending: bytes to send that wait for the client's windows.
        trailers: to send after them.
    """

    __slots__ = (
        *("answering", "connection", "context", "ended", "headers", "id", "pending", "reading", "send_window"),
        *("trailers", "unread", "_waiter"),
    )

    def __init__(self, connection: Sender, stream_id: int, headers: dict[bytes, bytes], window: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers = headers
        self.send_window = window
        self.reading = True
        self.answering = False
        self.ended = False
        self.unread = 0
        self.pending = bytearray()
        self.trailers = b""
        self.context: object = None
        self._waiter: asyncio.Future[None] | None = None

    def send(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """Sends header block (if any), body and trailers (if any; they end the stream), as windows allow."""
        self.answering = self.answering or bool(head)
        self.connection.send(self, head, body, trailers)

    def read_on(self) -> None:
        """Lets more of the body come."""
        self.reading = True
        self.connection.widen(self)

    async def sent(self) -> None:
        """Waits until all that was sent is on its way. One task at a time."""
        while not self.connection.keeps_up(self):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        """Something was sent: `sent` looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
