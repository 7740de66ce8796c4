"""The receiving half of a connection of HTTP/2: frames to streams, each by the state its stream is in."""

from __future__ import annotations

from collections.abc import Callable

from service.transport.http2 import frames as wire
from service.transport.http2.blocks import DEPENDS_ON_ITSELF, Blocks
from service.transport.http2.guard import Guard
from service.transport.http2.headers import HeaderDecoder, Headers, wrong_fields
from service.transport.http2.limits import Limits
from service.transport.http2.outgoing import Outgoing
from service.transport.http2.states import MAY_COME, State, Streams, Verdict
from service.transport.http2.stream import Application, Carrier, Stream

REQUEST_WORK = 8
"""What a header block costs, in other frames."""
_WHOLE_CONNECTION = frozenset({wire.SETTINGS, wire.PING, wire.GOAWAY})


class Incoming:
    """What one connection receives.

    Args:
        connection: for its streams.
        application: answers.
        streams: of the connection.
        out: its other half.
        limits: of it.
        calm: counts frames that bring nothing.
        blocks: puts header blocks together.
        on_pong: called with the payload of a PING of ours that comes back.

    Attributes:
        last_id: of the streams that are answered or will be.
        refusing: new streams.
        settled: the peer's settings came: it speaks HTTP/2.
        resets: counts streams that the client cancelled.
    """

    def __init__(
        self,
        connection: Carrier,
        application: Application,
        streams: Streams,
        out: Outgoing,
        limits: Limits,
        calm: Guard,
        blocks: Blocks,
        on_pong: Callable[[bytes], None],
    ) -> None:
        self._connection = connection
        self._application = application
        self._streams = streams
        self._out = out
        self._limits = limits
        self._calm = calm
        self._on_pong = on_pong
        self.resets = Guard("cancelled streams", limits.resets, limits.resets_per_second)
        self._decoder = HeaderDecoder(limits.header_block_bytes)
        self._blocks = blocks
        self._unread = 0
        self.last_id = 0
        self.refusing = self.settled = False
        self._takes = {
            wire.DATA: self._data,
            wire.HEADERS: self._headers,
            wire.PRIORITY: self._priority,
            wire.RST_STREAM: self._reset,
            wire.SETTINGS: self._settings,
            wire.PUSH_PROMISE: self._push,
            wire.PING: self._ping,
            wire.GOAWAY: self._goaway,
            wire.WINDOW_UPDATE: self._window_update,
            wire.CONTINUATION: self._continuation,
        }

    def take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> int:
        """Takes a frame; returns what it cost, in frames.

        Raises:
            ProtocolError: it ends the connection.
        """
        if self._blocks.open and kind != wire.CONTINUATION:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, "expected CONTINUATION")
        if not self.settled:
            if kind != wire.SETTINGS or flags & wire.ACK:
                raise wire.ProtocolError(wire.PROTOCOL_ERROR, "expected SETTINGS first")
            self.settled = True
        take = self._takes.get(kind)
        if take is None:  # 4.1: "Implementations MUST ignore and discard frames of unknown types."
            self._calm.count()
            return 1
        if (stream_id == 0) != (kind in _WHOLE_CONNECTION) and (stream_id or kind != wire.WINDOW_UPDATE):
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, f"got frame {kind} on stream {stream_id}")
        try:
            return take(flags, stream_id, payload)
        except wire.StreamError as error:
            self._fail(error)
            return 1

    def _fail(self, error: wire.StreamError) -> None:
        """Resets one stream. A stream that is over already is not opened again by that, but the peer has to know."""
        self._calm.count()
        stream = self._streams.get(error.stream_id)
        self._out.write(wire.reset(error.stream_id, error.code))
        if stream is not None:
            self._application.reset(stream)
        self._streams.close(error.stream_id, State.RESET_BY_US)

    def _placed(self, kind: int, stream_id: int) -> bool:
        """Whether a frame may come where it did, or (False) is to be ignored.

        Raises:
            StreamError, ProtocolError: it may not.
        """
        state = self._streams.state(stream_id)
        verdict = MAY_COME[state][kind]
        if verdict is Verdict.ACCEPT:
            return True
        what = f"got frame {kind} on stream {stream_id}, which is {state.name}"
        if verdict is Verdict.STREAM_CLOSED:
            raise wire.StreamError(stream_id, wire.STREAM_CLOSED, what)
        if verdict is Verdict.CONNECTION_CLOSED:
            raise wire.ProtocolError(wire.STREAM_CLOSED, what)
        if verdict is Verdict.PROTOCOL_ERROR:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, what)
        self._calm.count()
        return False

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> int:
        whole = self._blocks.begin(flags, stream_id, payload)
        return 1 if whole is None else self._whole(*whole)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> int:
        whole = self._blocks.go_on(flags, stream_id, payload)
        return 1 if whole is None else self._whole(*whole)

    def _whole(self, stream_id: int, flags: int, block: bytes) -> int:
        """A whole header block. It is decoded whatever it is for: the table belongs to the connection."""
        if len(block) > self._limits.header_list_bytes:
            self._calm.count(len(block) // 1024)
        stream = self._streams.get(stream_id)
        if stream is not None:
            fields = self._decoder.fields(block)
            if self._placed(wire.HEADERS, stream_id):
                self._trailers(stream, flags, fields)
            return REQUEST_WORK
        headers = self._decoder.decode(block)
        if stream_id > self._streams.highest or self._placed(wire.HEADERS, stream_id):  # idle, nearly always
            self._streams.highest = stream_id
            self._request(stream_id, flags, headers)
        return REQUEST_WORK

    def _request(self, stream_id: int, flags: int, headers: Headers) -> None:
        if self.refusing or len(self._streams) >= self._limits.streams:
            raise wire.StreamError(stream_id, wire.REFUSED_STREAM, "got a stream too many")
        self.last_id = stream_id
        if headers.fault or flags & DEPENDS_ON_ITSELF:
            raise wire.StreamError(
                stream_id, wire.PROTOCOL_ERROR, headers.fault or "got a stream that waits for itself"
            )
        too_large = headers.size > self._limits.header_list_bytes
        stream = Stream(self._connection, stream_id, {} if too_large else headers)
        self._streams[stream_id] = stream
        stream.expected = headers.content_length
        stream.ended = bool(flags & wire.END_STREAM)
        if stream.ended:
            self._check_length(stream)
        if too_large:
            self._application.oversized(stream, headers.size)
            return
        self._application.started(stream)
        if stream.ended and not stream.done:
            self._application.received(stream, b"", True)

    def _trailers(self, stream: Stream, flags: int, fields: list[tuple[bytes, bytes]]) -> None:
        """Of a request: only their end matters."""
        if not flags & wire.END_STREAM:
            raise wire.StreamError(stream.id, wire.PROTOCOL_ERROR, "got trailers that do not end their stream")
        fault = wrong_fields(fields) or next(
            (f"got {name!r} in trailers" for name, _ in fields if name[:1] == b":"), ""
        )
        if fault:
            raise wire.StreamError(stream.id, wire.PROTOCOL_ERROR, fault)
        self._end(stream, b"")

    def _end(self, stream: Stream, data: bytes) -> None:
        stream.ended = True
        if stream.expected is not None:
            self._check_length(stream)
        if stream.done:
            self._streams.close(stream.id, State.CLOSED)
        else:
            self._application.received(stream, data, True)

    @staticmethod
    def _check_length(stream: Stream) -> None:
        """8.1.1: a content-length that is not the sum of the DATA makes the request malformed."""
        if stream.expected is not None and (
            stream.got > stream.expected or (stream.ended and stream.got < stream.expected)
        ):
            what = f"got {stream.got} bytes of a body, expected {stream.expected} by content-length"
            raise wire.StreamError(stream.id, wire.PROTOCOL_ERROR, what)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> int:
        size = len(payload)
        self._unread += size  # also of streams that are over: the connection's window knows no stream
        if self._unread > self._limits.connection_window_bytes // 2:
            if self._unread > self._limits.connection_window_bytes:
                raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, "got more DATA than the connection's window")
            self._out.write(wire.window_update(0, self._unread))
            self._unread = 0
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            self._placed(wire.DATA, stream_id)
            return 1
        stream.unread += size
        if stream.unread > self._limits.stream_window_bytes:
            raise wire.ProtocolError(wire.FLOW_CONTROL_ERROR, "got more DATA than the stream's window")
        data = wire.unpadded(flags, payload)
        stream.got += len(data)
        if flags & wire.END_STREAM:
            self._end(stream, data)
            return 1
        if stream.expected is not None:
            self._check_length(stream)
        if not data:
            self._calm.count()
        if stream.done:
            return 1
        if stream.reading:
            self._connection.widen(stream)
        self._application.received(stream, data, False)
        return 1

    def _reset(self, flags: int, stream_id: int, payload: bytes) -> int:
        if len(payload) != 4:
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got RST_STREAM that is not 4 bytes")
        if self._placed(wire.RST_STREAM, stream_id):
            if self._application.reset(self._streams[stream_id]):
                self.resets.count()
            self._streams.close(stream_id, State.RESET_BY_PEER)
        return 1

    def _window_update(self, flags: int, stream_id: int, payload: bytes) -> int:
        if len(payload) != 4:
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got WINDOW_UPDATE that is not 4 bytes")
        if stream_id == 0 or self._placed(wire.WINDOW_UPDATE, stream_id):
            self._calm.count()
            self._out.widened(stream_id, int.from_bytes(payload) & wire.LARGEST_WINDOW_BYTES)
        return 1

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> int:
        self._calm.count()
        if len(payload) % 6 or (flags & wire.ACK and payload):
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got SETTINGS that are not 6 bytes each, or none with ACK")
        if flags & wire.ACK:
            return 1
        self._out.settings(payload)
        return 1 + len(payload) // 60

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> int:
        if len(payload) != 8:
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got PING that is not 8 bytes")
        self._calm.count()
        if flags & wire.ACK:
            self._on_pong(payload)
        else:
            self._out.write(wire.frame(wire.PING, wire.ACK, 0, payload))
        return 1

    def _priority(self, flags: int, stream_id: int, payload: bytes) -> int:
        """Nothing but its form matters (5.3.2). RST_STREAM may not name an idle stream, so that GOAWAY has to."""
        self._calm.count()
        idle = self._streams.state(stream_id) is State.IDLE
        if len(payload) != 5:
            code, what = wire.FRAME_SIZE_ERROR, "got PRIORITY that is not 5 bytes"
        elif int.from_bytes(payload[:4]) & wire.LARGEST_STREAM_ID == stream_id:
            code, what = wire.PROTOCOL_ERROR, "got a stream that waits for itself"
        else:
            return 1
        raise wire.ProtocolError(code, what) if idle else wire.StreamError(stream_id, code, what)

    def _push(self, flags: int, stream_id: int, payload: bytes) -> int:
        raise wire.ProtocolError(wire.PROTOCOL_ERROR, "a client cannot push")

    def _goaway(self, flags: int, stream_id: int, payload: bytes) -> int:
        """The peer will go; it says so to one who opens streams, which we do not."""
        if len(payload) < 8:
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got GOAWAY of less than 8 bytes")
        self._calm.count()
        return 1
