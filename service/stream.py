"""One exchange of HTTP/2, and what answers it: the seam between the protocol and gRPC."""

from __future__ import annotations

from typing import Protocol


class Sender(Protocol):
    """A connection, as a stream sees it."""

    def send(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """See `Stream.send`."""


class Application(Protocol):
    """What answers requests."""

    def started(self, stream: Stream) -> None:
        """The request's headers are there; its body may follow."""

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """More of the request's body."""

    def reset(self, stream: Stream) -> None:
        """The client went away; nothing can be sent any more."""


class Stream:
    """One exchange. `context` is the application's to use."""

    __slots__ = ("connection", "context", "headers", "id", "pending", "send_window", "trailers", "unread")

    def __init__(self, connection: Sender, stream_id: int, headers: dict[bytes, bytes], window: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers = headers
        self.send_window = window
        self.unread = 0
        self.pending = bytearray()
        self.trailers = b""
        self.context: object = None

    def send(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """Sends header block (if any), body and trailers (if any; they end the stream), as windows allow."""
        self.connection.send(self, head, body, trailers)
