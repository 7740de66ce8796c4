"""The server's half of HTTP/2, as much of it as gRPC needs, on asyncio.

Why it is here: see docs/adr/0005-transport.md. Frames, flow control and limits are ours; header compression is `hpack`.

    Connection   one TCP connection: frames to streams
    Outgoing     its other half: streams to frames, as the peer's windows allow (`outgoing`)
    Stream       one exchange on it: request headers and body in, response out (`stream`)

Both directions are bounded: frames and header blocks in size, streams in number, a body by the caller's limit, what
waits to be written by the peer's windows. A peer that breaks the protocol is told why (GOAWAY) and dropped; one that
cancels streams faster than it lets them finish is dropped too. Source: RFC 9113.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from service import frames as wire
from service.outgoing import Outgoing
from service.stream import Application, Stream

MAX_RESETS_AHEAD = 2000
"""Streams a client may cancel beyond those it let finish (CVE-2023-44487, rapid reset)."""
LINGER_SECONDS = 1.0
"""How long a drained client has to close, and as long again once it was told that nothing more will come. Closed at
once, frames of it that come too late would make TCP reset the connection, and the last answer could be lost."""


class Connection(asyncio.Protocol):
    """One TCP connection.

    Args:
        application: answers.
        register: called with the connection when it is made and when it is lost (True, False).
    """

    def __init__(self, application: Application, register: Callable[[Connection, bool], None]) -> None:
        self._application = application
        self._register = register
        self._transport: asyncio.Transport
        self._buffer = b""
        self._greeted = False
        self._headers = wire.HeaderDecoder()
        self._header_block: tuple[int, int, bytearray] | None = None  # stream, flags, what came so far
        self.streams: dict[int, Stream] = {}
        self._last_id = 0  # that was answered or will be
        self._highest_id = 0  # that was begun, refused ones too
        self._draining = False
        self._resets_ahead = 0
        self._unread = 0
        self._out: Outgoing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client: our settings, and a wide window."""
        self._transport = cast(asyncio.Transport, transport)
        self._out = Outgoing(self._transport, self.streams, self._ended)
        self._register(self, True)
        more = wire.CONNECTION_WINDOW_BYTES - wire.DEFAULT_WINDOW_BYTES
        self._out.write(
            wire.frame(wire.SETTINGS, 0, 0, wire.SETTINGS_PAYLOAD)
            + wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", more))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Every stream's client has gone."""
        self._register(self, False)
        for stream in list(self.streams.values()):
            self._application.reset(stream)
        self.streams.clear()

    def pause_writing(self) -> None:
        """The peer does not read: see `asyncio.Protocol`."""
        self._out.stall(True)

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._out.stall(False)

    def data_received(self, data: bytes) -> None:
        """Cuts bytes into frames."""
        buffer = self._buffer + data if self._buffer else data
        try:
            at = self._frames(buffer)
        except wire.ProtocolError as error:
            self._goaway(error.code, str(error))
            self._transport.close()
            return
        self._buffer = buffer[at:]

    def drain(self) -> None:
        """Takes no new stream; the connection closes when the last one is answered."""
        self._draining = True
        if not self._transport.is_closing():
            self._goaway(wire.NO_ERROR, "")
            self._close_if_drained()

    def abort(self) -> None:
        """Closes at once."""
        self._transport.abort()

    def _frames(self, buffer: bytes) -> int:
        at = 0
        if not self._greeted:
            if not wire.PREFACE.startswith(buffer[: len(wire.PREFACE)]):
                raise wire.ProtocolError(wire.PROTOCOL_ERROR, "expected HTTP/2 with prior knowledge")
            if len(buffer) < len(wire.PREFACE):
                return 0
            self._greeted, at = True, len(wire.PREFACE)
        end = len(buffer)
        while end - at >= 9:
            high, low, kind, flags, stream_id = wire.FRAME_HEAD.unpack_from(buffer, at)
            size = high << 8 | low
            if size > wire.MAX_FRAME_BYTES:
                raise wire.ProtocolError(
                    wire.FRAME_SIZE_ERROR, f"got a frame of {size} bytes, expected at most {wire.MAX_FRAME_BYTES}"
                )
            if end - at - 9 < size:
                break
            payload = buffer[at + 9 : at + 9 + size]
            at += 9 + size
            if self._header_block is not None and kind != wire.CONTINUATION:
                raise wire.ProtocolError(wire.PROTOCOL_ERROR, "expected CONTINUATION")
            self._dispatch(kind, flags, stream_id & wire.LARGEST_WINDOW_BYTES, payload)
        return at

    def _dispatch(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == wire.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == wire.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == wire.CONTINUATION:
            self._on_continuation(flags, stream_id, payload)
        elif kind == wire.WINDOW_UPDATE:
            self._on_window(stream_id, payload)
        elif kind == wire.RST_STREAM:
            self._on_reset(stream_id, payload)
        elif kind == wire.SETTINGS:
            self._out.settings(flags, payload)
        elif kind == wire.PING:
            if len(payload) != 8:
                raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got a PING that is not 8 bytes")
            if not flags & wire.ACK:
                self._out.control(wire.frame(wire.PING, wire.ACK, 0, payload))
        elif kind == wire.PUSH_PROMISE:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, "a client cannot push")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        payload = wire.unpadded(flags, payload)
        if flags & wire.WITH_PRIORITY:
            payload = payload[5:]
        if not stream_id % 2:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, f"got stream {stream_id}, expected an odd number")
        if flags & wire.END_HEADERS:
            self._request(stream_id, flags, payload)
        else:
            self._header_block = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._header_block is None or self._header_block[0] != stream_id:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, "got CONTINUATION without HEADERS")
        _, first_flags, block = self._header_block
        block += payload
        if len(block) > wire.MAX_HEADER_BYTES:
            raise wire.ProtocolError(wire.ENHANCE_YOUR_CALM, f"got headers of more than {wire.MAX_HEADER_BYTES} bytes")
        if flags & wire.END_HEADERS:
            self._header_block = None
            self._request(stream_id, first_flags, bytes(block))

    def _request(self, stream_id: int, flags: int, block: bytes) -> None:
        headers = self._headers.decode(block)  # even if the stream is refused: the table belongs to the connection
        stream = self.streams.get(stream_id)
        if stream is not None:  # trailers of a request: only their end matters
            stream.ended = True
            self._application.received(stream, b"", True)
            return
        if stream_id <= self._highest_id:
            return  # late frames of a stream that has ended
        self._highest_id = stream_id
        if self._draining or len(self.streams) >= wire.MAX_STREAMS:
            self._out.control(wire.frame(wire.RST_STREAM, 0, stream_id, struct.pack(">I", wire.REFUSED_STREAM)))
            return
        self._last_id = stream_id
        stream = self.streams[stream_id] = Stream(self, stream_id, headers, self._out.stream_window)
        stream.ended = bool(flags & wire.END_STREAM)
        self._application.started(stream)
        if stream.ended and stream_id in self.streams:
            self._application.received(stream, b"", True)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._unread += size
        if self._unread > wire.CONNECTION_WINDOW_BYTES // 2:
            self._out.control(wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unread)))
            self._unread = 0
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id > self._highest_id or stream_id == 0:
                raise wire.ProtocolError(wire.PROTOCOL_ERROR, f"got DATA on stream {stream_id}, which is idle")
            return
        stream.unread += size
        if stream.unread > wire.STREAM_WINDOW_BYTES:
            raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, "got more DATA than the stream's window")
        stream.ended = bool(flags & wire.END_STREAM)
        if stream.reading and not stream.ended:
            self.widen(stream)
        self._application.received(stream, wire.unpadded(flags, payload), stream.ended)

    def _on_reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4 or stream_id > self._highest_id:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, "got RST_STREAM of an idle stream")
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        self._resets_ahead += 1
        if self._resets_ahead > MAX_RESETS_AHEAD:
            raise wire.ProtocolError(wire.ENHANCE_YOUR_CALM, "got more cancelled streams than finished ones")
        self._application.reset(stream)
        self._close_if_drained()

    def _on_window(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got a WINDOW_UPDATE that is not 4 bytes")
        self._out.widened(stream_id, int.from_bytes(payload) & wire.LARGEST_WINDOW_BYTES)

    def widen(self, stream: Stream) -> None:
        """See `stream.Sender`. The connection's own window does not wait for any stream."""
        if stream.unread > wire.STREAM_WINDOW_BYTES // 2 and stream.id in self.streams:
            self._out.control(wire.frame(wire.WINDOW_UPDATE, 0, stream.id, struct.pack(">I", stream.unread)))
            stream.unread = 0

    def send(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """See `Stream.send`."""
        self._out.send(stream, head, body, trailers)

    def keeps_up(self, stream: Stream) -> bool:
        """See `stream.Sender`."""
        return self._out.keeps_up(stream)

    def _ended(self) -> None:
        self._resets_ahead = max(0, self._resets_ahead - 1)
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._draining and not self.streams:
            loop = asyncio.get_running_loop()
            loop.call_later(LINGER_SECONDS, self._out.finish)
            loop.call_later(2 * LINGER_SECONDS, self._transport.close)

    def _goaway(self, code: int, message: str) -> None:
        self._out.write(wire.frame(wire.GOAWAY, 0, 0, struct.pack(">II", self._last_id, code) + message.encode()))
