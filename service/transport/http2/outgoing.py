"""The sending half of a connection of HTTP/2: bodies to frames, as the peer's windows allow. Source: RFC 9113, 5.2.

Only streams with something to send are ever looked at: `_waiting` are those with bytes that wait, `_ready` those of
them that wait for the connection (its window, or TCP) and not for a window of their own.
"""

from __future__ import annotations

import asyncio
import struct

from service.transport.http2 import frames as wire
from service.transport.http2.budget import Share
from service.transport.http2.guard import Guard
from service.transport.http2.states import State, Streams
from service.transport.http2.stream import Stream

ROUND_BYTES = 2**16
"""Of a stream before the next one has its turn."""


class Outgoing:
    """What one connection sends.

    Args:
        transport: TCP.
        streams: those that are open; one that ends is closed here.
        share: of the bytes that may wait.
        calm: counts frames that bring nothing; what we send is what they may be for.

    Attributes:
        stalled: TCP takes no more for now.
    """

    def __init__(self, transport: asyncio.Transport, streams: Streams, share: Share, calm: Guard) -> None:
        self._transport = transport
        self._streams = streams
        self._share = share
        self._calm = calm
        self._window = wire.DEFAULT_WINDOW_BYTES
        self._initial = wire.DEFAULT_WINDOW_BYTES
        self._widest = 0  # no stream has more credit
        self._frame_bytes = wire.DEFAULT_FRAME_BYTES
        self._waiting: dict[int, Stream] = {}
        self._ready: dict[int, Stream] = {}
        self._asleep: dict[int, Stream] = {}
        self.stalled = False
        self._finished = False

    def stall(self, stalled: bool) -> None:
        """TCP takes no more for now, or does again."""
        self.stalled = stalled
        if not stalled:
            self._pump()
            asleep, self._asleep = self._asleep, {}
            for stream in asleep.values():
                stream.wake()

    def keeps_up(self, stream: Stream) -> bool:
        """See `stream.Sender`: windows as wide as may be are no reason to fill our memory if TCP stands still."""
        if not stream.pending and not self.stalled:
            return True
        if not stream.pending:
            self._asleep[stream.id] = stream
        return False

    def send(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> bool:
        """See `Stream.send`."""
        if stream.done or stream.id not in self._streams:
            return True
        size = len(body)
        at_once = not stream.pending and (
            not size
            or (not self.stalled and size <= min(self._window, self._initial + stream.credit, self._frame_bytes))
        )
        if not at_once and not self._share.take(size):
            return False
        self._calm.forgive(2 + size / 1024 if at_once else 2)
        if head:
            stream.answering = True
        first = wire.frame(wire.HEADERS, wire.END_HEADERS, stream.id, head) if head else b""
        if at_once:
            self._window -= size
            stream.credit -= size
            data = wire.frame(wire.DATA, 0, stream.id, body) if size else b""
            self.write(first + data + self._ending(stream, trailers))
            return True
        if first:
            self.write(first)
        stream.pending += body
        stream.trailers = trailers
        self._waiting[stream.id] = self._ready[stream.id] = stream
        self._pump()
        return True

    def drop(self, stream: Stream) -> None:
        """Forgets what waits on a stream that is over."""
        self._asleep.pop(stream.id, None)
        if self._waiting.pop(stream.id, None) is not None:
            self._ready.pop(stream.id, None)
            self._share.give_back(len(stream.pending))
            stream.pending.clear()

    def widened(self, stream_id: int, more: int) -> None:
        """The peer gave room, to a stream or (0) to the connection.

        Raises:
            ProtocolError: to the connection, by nothing or beyond what may be.
            StreamError: likewise to a stream.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            if more == 0:
                raise wire.StreamError(stream_id, wire.PROTOCOL_ERROR, "got a WINDOW_UPDATE of 0")
            stream.credit += more
            self._widest = max(self._widest, stream.credit)
            if self._initial + stream.credit > wire.LARGEST_WINDOW_BYTES:
                raise wire.StreamError(stream_id, wire.FLOW_CONTROL_ERROR, "got a window above 2^31 - 1")
            if stream.pending:
                self._ready[stream_id] = stream
        elif stream_id == 0:
            if more == 0:
                raise wire.ProtocolError(wire.PROTOCOL_ERROR, "got a WINDOW_UPDATE of 0")
            self._window += more
            if self._window > wire.LARGEST_WINDOW_BYTES:
                raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, "got a window above 2^31 - 1")
        if self._ready:
            self._pump()

    def settings(self, payload: bytes) -> None:
        """The peer's settings. Windows are sums, so that the streams need not be told of a new first one.

        Raises:
            ProtocolError: they break the rules.
        """
        before = self._initial
        for name, value in struct.iter_unpack(">HI", payload):
            if name == wire.INITIAL_WINDOW_SIZE:
                if value > wire.LARGEST_WINDOW_BYTES or self._too_wide(value):
                    raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, f"got an initial window of {value}")
                self._initial = value
            elif name == wire.MAX_FRAME_SIZE:
                if not wire.DEFAULT_FRAME_BYTES <= value <= wire.LARGEST_FRAME_BYTES:
                    raise wire.ProtocolError(wire.PROTOCOL_ERROR, f"got a largest frame of {value}")
                self._frame_bytes = value
            elif name == wire.ENABLE_PUSH and value > 1:
                raise wire.ProtocolError(wire.PROTOCOL_ERROR, f"got {value} to enable push, expected 0 or 1")
        self.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
        if self._initial > before and self._waiting:
            self._ready = dict(self._waiting)
            self._pump()

    def _too_wide(self, initial: int) -> bool:
        """Whether it would widen a window beyond what may be; the streams are asked only if that is possible."""
        if self._widest + initial <= wire.LARGEST_WINDOW_BYTES:
            return False
        self._widest = max((stream.credit for stream in self._streams.values()), default=0)
        return self._widest + initial > wire.LARGEST_WINDOW_BYTES

    def _pump(self) -> None:
        """Sends what the windows allow, the streams by turns."""
        while self._ready and self._window > 0 and not self.stalled:
            stream = self._ready.pop(next(iter(self._ready)))
            size = min(len(stream.pending), self._window, self._initial + stream.credit, ROUND_BYTES)
            if size <= 0:
                continue
            self._window -= size
            stream.credit -= size
            self._share.give_back(size)
            self._calm.forgive(size / 1024)
            data = self._cut(stream, size)
            if stream.pending:
                self._ready[stream.id] = stream
                self.write(data)
                continue
            del self._waiting[stream.id]
            self.write(data + (self._ending(stream, stream.trailers) if stream.trailers else b""))
            stream.wake()

    def _cut(self, stream: Stream, size: int) -> bytes:
        parts: list[bytes | memoryview] = []
        with memoryview(stream.pending) as pending:
            slices = [pending[at : min(size, at + self._frame_bytes)] for at in range(0, size, self._frame_bytes)]
            for part in slices:
                parts += wire.FRAME_HEAD.pack(len(part) >> 8, len(part) & 0xFF, wire.DATA, 0, stream.id), part
            data = b"".join(parts)
            for part in slices:
                part.release()
        del stream.pending[:size]
        return data

    def _ending(self, stream: Stream, trailers: bytes) -> bytes:
        """The last frames of a stream."""
        if not trailers:
            return b""
        last = wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, stream.id, trailers)
        stream.done = True
        if stream.ended:
            self._streams.close(stream.id, State.CLOSED)
        elif not stream.hears_out:
            # 8.1: whoever is answered before its request is whole need not send the rest. Without it grpcio keeps the
            # stream open, and calls it broken when the connection ends, answers it has but did not take yet included.
            last += wire.reset(stream.id, wire.NO_ERROR)
            self._streams.close(stream.id, State.RESET_BY_US)
        return last

    def write(self, data: bytes) -> None:
        """Sends frames."""
        if not self._finished and not self._transport.is_closing():
            self._transport.write(data)

    def finish(self) -> None:
        """Sends nothing more: the peer sees the end once it has read the rest."""
        if not self._finished and not self._transport.is_closing():
            self._finished = True
            if self._transport.can_write_eof():  # TLS cannot: there GOAWAY is the last word
                self._transport.write_eof()
