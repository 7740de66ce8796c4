"""One exchange of HTTP/2, and what answers it: the seam between the protocol and gRPC."""

from __future__ import annotations

import asyncio
from typing import Protocol

from service.transport.http2.budget import Share


class Sender(Protocol):
    """The sending half of a connection, as a stream sees it."""

    def send(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> bool:
        """See `Stream.send`."""

    def keeps_up(self, stream: Stream) -> bool:
        """Whether all that was sent on the stream is on its way; if not, the stream is woken when it may be."""


class Carrier(Protocol):
    """A connection, as a stream sees it.

    Attributes:
        received: its share of what all connections may hold of requests.
    """

    received: Share

    @property
    def out(self) -> Sender:
        """Its sending half."""

    def cancel(self, stream: Stream, code: int) -> None:
        """See `Stream.cancel`."""

    def widen(self, stream: Stream) -> None:
        """Gives the client room for what was read of the stream's body, if it is time for that."""


class Application(Protocol):
    """What answers requests."""

    def started(self, stream: Stream) -> None:
        """The request's headers are there; its body may follow."""

    def oversized(self, stream: Stream, num_bytes: int) -> None:
        """As `started`, but the headers are larger than may be, and not shown."""

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """More of the request's body."""

    def stalled(self, stream: Stream) -> None:
        """The request's body has stopped coming."""

    def reset(self, stream: Stream) -> bool:
        """The client went away; nothing can be sent any more. Returns whether it was free to: it is counted then."""

    def closed(self, stream: Stream) -> None:
        """The stream is over, for whatever reason: nothing of it need be kept."""


class Stream:
    """One exchange.

    Attributes:
        context: the application's to use.
        reading: while False the client gets no more room than it has: at most a window's bytes may still come.
        answering: the response has begun, its headers are gone.
        ended: the whole request is there.
        done: the whole response is gone.
        hears_out: the rest of a request is let come after its response, and dropped; else the stream is reset then.
        credit: bytes that may be sent, beside what SETTINGS give to each stream (RFC 9113, 6.9.2).
        expected: bytes of the body by content-length; None: it does not say.
        got: bytes of the body so far.
        marked: `got` when the body was last seen to move.
        moved: when that was.
        unread: bytes that came since the client was last given room.
        pending: bytes to send that wait for the client's windows.
        trailers: to send after them.
    """

    __slots__ = (
        *("answering", "connection", "context", "credit", "done", "ended", "expected", "got", "headers", "hears_out"),
        *("id", "marked", "moved", "pending", "reading", "trailers", "unread", "_waiter"),
    )

    def __init__(self, connection: Carrier, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers = headers
        self.credit = 0
        self.reading = True
        self.answering = self.ended = self.done = self.hears_out = False
        self.expected: int | None = None
        self.got = self.marked = self.unread = 0
        self.moved = 0.0
        self.pending = bytearray()
        self.trailers = b""
        self.context: object = None
        self._waiter: asyncio.Future[None] | None = None

    def send(self, head: bytes, body: bytes, trailers: bytes) -> bool:
        """Sends header block (if any), body and trailers (if any; they end the stream), as windows allow.

        Returns:
            False if nothing was sent, because too much waits for clients that do not read.
        """
        return self.connection.out.send(self, head, body, trailers)

    def cancel(self, code: int) -> None:
        """Resets the stream; what waits to be sent is dropped."""
        self.connection.cancel(self, code)

    def read_on(self) -> None:
        """Lets more of the body come."""
        self.reading = True
        self.connection.widen(self)

    async def sent(self) -> None:
        """Waits until all that was sent is on its way. One task at a time."""
        while not self.connection.out.keeps_up(self):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        """Something was sent: `sent` looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
