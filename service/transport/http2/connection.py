"""One TCP connection of HTTP/2 on asyncio: its life, from the preface to the last frame.

Bytes go through `FrameReader` (bytes to frames), `Incoming` (frames to streams) and the application; answers go out
through `Outgoing`. Here is what is left: when to read, when to close, and why.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import cast

from service.transport.http2 import frames as wire
from service.transport.http2.blocks import Blocks
from service.transport.http2.budget import Share, Shared
from service.transport.http2.frame_reader import FrameReader
from service.transport.http2.guard import Guard
from service.transport.http2.incoming import Incoming
from service.transport.http2.outgoing import Outgoing
from service.transport.http2.patience import Patience
from service.transport.http2.states import State, Streams
from service.transport.http2.stream import Application, Stream

DRAIN_PING, KEEPALIVE_PING = b"draining", b"there?!?"


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        application: answers.
        register: called with the connection when it is made and when it is lost (True, False).
        shared: with the other connections.

    Attributes:
        streams: that are open, by number.
        reason: why it closes or closed, one of a few.
        why: in words.
        peer: whose it is, for the log.
        out: its sending half.
    """

    def __init__(
        self, application: Application, register: Callable[[Connection, bool], None], shared: Shared | None = None
    ) -> None:
        self._application = application
        self._register = register
        shared = shared or Shared()
        self.limits = limits = shared.limits
        self.received = Share(shared.received)
        self._unsent = Share(shared.unsent)
        self._transport: asyncio.Transport
        self.out: Outgoing
        self._incoming: Incoming
        self._blocks: Blocks
        self._reader = FrameReader(limits.frame_bytes)
        self._patience: Patience
        self.streams = Streams(limits.closed_streams, self._on_close)
        self.reason = "client"
        self.why = ""
        self.peer: object = None
        self._reading = True
        self._turn_due = self._failed = self._draining = self._closing = False
        self._heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client: our settings, and a wide window."""
        self._transport = cast(asyncio.Transport, transport)
        self.peer = transport.get_extra_info("peername")
        limits = self.limits
        self._transport.set_write_buffer_limits(high=limits.write_buffer_bytes)
        calm = Guard("frames that bring nothing", limits.calm_frames, limits.calm_frames_per_second)
        self.out = Outgoing(self._transport, self.streams, self._unsent, calm)
        self._blocks = Blocks(limits)
        self._incoming = Incoming(
            self, self._application, self.streams, self.out, limits, calm, self._blocks, self._on_pong
        )
        self._patience = Patience(limits, time.monotonic())
        ours = {
            wire.MAX_CONCURRENT_STREAMS: limits.streams,
            wire.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            wire.MAX_FRAME_SIZE: limits.frame_bytes,
            wire.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        more = limits.connection_window_bytes - wire.DEFAULT_WINDOW_BYTES
        self.out.write(wire.settings(ours) + wire.window_update(0, more))
        self._register(self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Every stream's client has gone."""
        self._closing = True
        if exc is not None and self.reason == "client":
            self.reason = "lost"
        self._failed = True
        self._reset_all()
        self._register(self, False)

    def pause_writing(self) -> None:
        """The peer does not read, so we do not read what it writes: see `asyncio.Protocol`."""
        self.out.stall(True)
        self._read_if_due()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self.out.stall(False)
        if self._reader.more():
            self._turn_later()
        self._read_if_due()

    def data_received(self, data: bytes) -> None:
        """Takes what came, as much of it as is its turn."""
        self._heard = True
        if not self._failed:
            self._reader.feed(data)
            if not self._turn_due:
                self._turn()

    def _turn(self) -> None:
        self._turn_due = False
        work = 0
        try:
            while not (self._failed or self.out.stalled) and (frame := self._reader.next_frame()) is not None:
                work += self._incoming.take(*frame)
                if work >= self.limits.turn_work:
                    if self._reader.more():
                        self._turn_later()
                    break
        except wire.ProtocolError as error:
            self._fail(error)
        self._read_if_due()

    def _turn_later(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _read_if_due(self) -> None:
        """Reads unless the peer does not, or there is still something to do of what was read."""
        due = self._failed or not (self.out.stalled or self._turn_due)
        if due != self._reading and not self._transport.is_closing():
            self._reading = due
            (self._transport.resume_reading if due else self._transport.pause_reading)()

    def _fail(self, error: wire.ProtocolError) -> None:
        """The peer is told why, and what else it sends is not looked at."""
        self._failed = True
        self.reason = "calm" if error.code == wire.ENHANCE_YOUR_CALM else "protocol_error"
        self.why = str(error)
        self._goaway(error.code, self.why)
        self._reset_all()
        self._close()

    def _close(self) -> None:
        """Lets what is written go out, for a while."""
        if not self._closing:
            self._closing = True
            self.out.finish()
            loop = asyncio.get_running_loop()
            loop.call_later(self.limits.linger_seconds, self._transport.close)
            loop.call_later(2 * self.limits.linger_seconds, self._transport.abort)  # if the peer does not read

    def _reset_all(self) -> None:
        for stream in list(self.streams.values()):
            self._application.reset(stream)
            self.streams.close(stream.id, State.RESET_BY_US)

    def drain(self, reason: str = "drained") -> None:
        """First asks for no new streams, then takes none; the connection closes when the last one is answered.

        RFC 9113, 6.8: what the client sent before it heard of it is answered, too.
        """
        if not self._draining and not self._failed:
            self._draining = True
            self.reason = reason
            self._goaway(wire.NO_ERROR, reason, wire.LARGEST_STREAM_ID)
            self.out.write(wire.frame(wire.PING, 0, 0, DRAIN_PING))
            asyncio.get_running_loop().call_later(self.limits.drain_seconds, self._refuse)

    def _on_pong(self, payload: bytes) -> None:
        if payload == DRAIN_PING and self._draining:
            self._refuse()

    def _refuse(self) -> None:
        if not self._incoming.refusing and not self._failed:
            self._incoming.refusing = True
            self._goaway(wire.NO_ERROR, self.reason)
            self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._incoming.refusing and not self.streams and not self._closing:
            self._closing = True
            loop = asyncio.get_running_loop()
            loop.call_later(self.limits.linger_seconds, self.out.finish)
            loop.call_later(2 * self.limits.linger_seconds, self._transport.close)
            loop.call_later(3 * self.limits.linger_seconds, self._transport.abort)

    def abort(self, reason: str = "grace") -> None:
        """Closes at once."""
        self.reason = reason
        self._transport.abort()

    def refuse(self, reason: str) -> None:
        """Closes at once a connection on which nothing is under way: its file descriptor is needed."""
        self._failed = self._closing = True
        self.reason, self.why = "refused", reason
        self._goaway(wire.NO_ERROR, reason)
        self._transport.close()
        asyncio.get_running_loop().call_later(self.limits.linger_seconds, self._transport.abort)

    def look(self, now: float) -> None:
        """Closes the connection if the peer keeps us waiting for too long. Called every so often."""
        if self._failed or self._closing:
            return
        heard, self._heard = self._heard, False
        overdue = self._patience.look(
            now,
            heard,
            self.out.stalled,
            self._transport.get_write_buffer_size(),
            self._waits_for(),
            bool(self.streams),
        )
        if overdue == "idle":
            self.drain("idle")
        elif overdue == "ping":
            self.out.write(wire.frame(wire.PING, 0, 0, KEEPALIVE_PING))
        elif overdue in ("unread", "keepalive"):
            self.abort(overdue)
        elif overdue:
            self._fail(wire.ProtocolError(wire.PROTOCOL_ERROR, f"waited too long for the {overdue}"))
            self.reason = overdue
        if not self.out.stalled and not self._turn_due:
            self._look_at_bodies(now)

    def _waits_for(self) -> tuple[str, int]:
        """What is there in part, and which one of its kind that is. Bodies are looked at by themselves."""
        if not self._incoming.settled:
            return "preface", 0
        if self._blocks.open:
            return "headers", self._blocks.stream_id
        num_bytes, kind, of_stream = self._reader.partial()
        body = kind == wire.DATA and of_stream in self.streams and not self.streams[of_stream].ended
        return ("frame", self._reader.num_frames) if num_bytes and not body else ("", 0)

    def _look_at_bodies(self, now: float) -> None:
        num_bytes, _, of_stream = self._reader.partial()
        for stream in [one for one in self.streams.values() if not one.ended]:
            got = stream.got + (num_bytes if stream.id == of_stream else 0)
            if not stream.reading or not stream.moved or got - stream.marked >= self.limits.body_bytes:
                stream.moved, stream.marked = now, got
            elif now - stream.moved > self.limits.body_seconds:
                stream.moved, stream.marked = now, got
                self._application.stalled(stream)

    def last_heard(self) -> float:
        """When, roughly, the peer last sent something; infinite while it has streams."""
        return float("inf") if self.streams or self._closing or self._draining else self._patience.heard

    def widen(self, stream: Stream) -> None:
        """See `stream.Carrier`. The connection's own window does not wait for any stream."""
        if stream.unread > self.limits.stream_window_bytes // 2 and stream.id in self.streams:
            self.out.write(wire.window_update(stream.id, stream.unread))
            stream.unread = 0

    def cancel(self, stream: Stream, code: int) -> None:
        """See `Stream.cancel`."""
        if stream.id in self.streams:
            self.out.write(wire.reset(stream.id, code))
            self.streams.close(stream.id, State.RESET_BY_US)

    def _on_close(self, stream: Stream) -> None:
        self.out.drop(stream)
        if stream.done:
            self._incoming.resets.forgive(1)
        self._application.closed(stream)
        self._close_if_drained()

    def _goaway(self, code: int, message: str, last_id: int | None = None) -> None:
        last = self._incoming.last_id if last_id is None else last_id
        self.out.write(wire.frame(wire.GOAWAY, 0, 0, struct.pack(">II", last, code) + message.encode()))
