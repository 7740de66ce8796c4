"""The sending half of a connection of HTTP/2: bodies to frames, as the peer's windows allow. Source: RFC 9113, 5.2."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from service import frames as wire
from service.stream import Stream

MAX_UNREAD_CONTROL_BYTES = 2**20


class Outgoing:
    """What one connection sends.

    Args:
        transport: TCP.
        streams: those that are open, by number; one that ends is taken out here.
        ended: called after that.

    Attributes:
        stream_window: bytes that a new stream may send before the peer gives it more room.
    """

    def __init__(self, transport: asyncio.Transport, streams: dict[int, Stream], ended: Callable[[], None]) -> None:
        self._transport = transport
        self._streams = streams
        self._ended = ended
        self._window = wire.DEFAULT_WINDOW_BYTES
        self.stream_window = wire.DEFAULT_WINDOW_BYTES
        self._frame_bytes = 16_384
        self._stalled = False
        self._finished = False

    def stall(self, stalled: bool) -> None:
        """TCP takes no more for now, or does again."""
        self._stalled = stalled
        for stream in list(self._streams.values()):
            stream.wake()

    def keeps_up(self, stream: Stream) -> bool:
        """See `stream.Sender`: windows as wide as may be are no reason to fill our memory if TCP stands still."""
        return not stream.pending and not self._stalled

    def widened(self, stream_id: int, more: int) -> None:
        """The peer gave room, to a stream or (0) to the connection.

        Raises:
            ProtocolError: to the connection, by nothing or beyond what may be.
        """
        if stream_id == 0:
            self._window += more
            if more == 0 or self._window > wire.LARGEST_WINDOW_BYTES:
                raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, "got a window of 0 or above 2^31 - 1")
            for stream in list(self._streams.values()):
                self._flush(stream)
        elif stream_id in self._streams:
            self._streams[stream_id].send_window += more
            self._flush(self._streams[stream_id])

    def settings(self, flags: int, payload: bytes) -> None:
        """The peer's settings, or that it has ours.

        Raises:
            ProtocolError: they break the rules.
        """
        if flags & wire.ACK:
            return
        if len(payload) % 6:
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got SETTINGS that are not 6 bytes each")
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 0x4:
                if value > wire.LARGEST_WINDOW_BYTES:
                    raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, "got a window above 2^31 - 1")
                for stream in self._streams.values():
                    stream.send_window += value - self.stream_window
                self.stream_window = value
            elif name == 0x5:
                self._frame_bytes = min(value, 2**20)
        self.control(wire.frame(wire.SETTINGS, wire.ACK, 0))
        for stream in list(self._streams.values()):
            self._flush(stream)

    def send(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """See `Stream.send`."""
        if stream.id not in self._streams:
            return
        first = wire.frame(wire.HEADERS, wire.END_HEADERS, stream.id, head) if head else b""
        size = len(body)
        if not stream.pending and size <= min(self._window, stream.send_window, self._frame_bytes):
            self._window -= size
            stream.send_window -= size
            self.write(
                first + (wire.frame(wire.DATA, 0, stream.id, body) if size else b"") + self._ending(stream, trailers)
            )
            return
        if first:
            self.write(first)
        stream.pending += body
        stream.trailers = trailers
        self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        """Sends what the windows allow of a body that did not fit at once."""
        while stream.pending:
            size = min(len(stream.pending), self._window, stream.send_window, self._frame_bytes)
            if size <= 0:
                return
            self._window -= size
            stream.send_window -= size
            self.write(wire.frame(wire.DATA, 0, stream.id, bytes(stream.pending[:size])))
            del stream.pending[:size]
        stream.wake()
        if stream.trailers:
            self.write(self._ending(stream, stream.trailers))

    def _ending(self, stream: Stream, trailers: bytes) -> bytes:
        if not trailers:
            return b""
        self._streams.pop(stream.id, None)
        self._ended()
        last = wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, stream.id, trailers)
        # 8.1: whoever is answered before its request is whole need not send the rest. Without it grpcio keeps the
        # stream open, and calls it broken when the connection ends, answers it has but did not take yet included.
        return last if stream.ended else last + wire.frame(wire.RST_STREAM, 0, stream.id, bytes(4))

    def control(self, data: bytes) -> None:
        """Sends a frame the peer made us send: one who does not read them must not fill our memory.

        Raises:
            ProtocolError: it does not read them.
        """
        if not self._streams and self._transport.get_write_buffer_size() > MAX_UNREAD_CONTROL_BYTES:
            raise wire.ProtocolError(wire.ENHANCE_YOUR_CALM, "got control frames faster than their answers were read")
        self.write(data)

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
