"""A client: one HTTP/2 connection that sends the same request again and again, frames written by hand.

On plain sockets, which costs the shared cores a tenth of what a gRPC client would. Bodies of any size: what the windows
of the server do not take yet waits here.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from service.transport.http2 import frames as wire
from service.transport.http2.headers import HeaderDecoder

ANSWERS_WINDOW_BYTES = 2**30
FRAME_BYTES = 16_384  # what every peer takes: RFC 9113, 4.2
OUT_BYTES = 2**20
"""Frames are made for so many bytes ahead of the socket, not for all that waits."""
BUFFERS_AT_ONCE = 64


@dataclass
class Request:
    """One that is not answered yet.

    Attributes:
        intended: when it was meant to leave, monotonic seconds.
        rest: of its body, not yet put into frames.
        window: bytes that the server takes on its stream.
    """

    intended: float
    rest: memoryview
    window: int


@dataclass
class Seen:
    """What a client has seen so far.

    Attributes:
        codes: answers by gRPC status number, and `reset`.
        latencies: seconds, of answers with status 0, from the intended send time.
        late: seconds that each request left after its time.
        failed_at: monotonic seconds of the answers with another status.
    """

    codes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)


class LoadClient:
    """One connection.

    Args:
        host: of the server.
        port: of the server.
        header_block: HPACK, without references to a table.
        body: of every request, with its gRPC frame.
    """

    def __init__(self, host: str, port: int, header_block: bytes, body: bytes) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.seen = Seen()
        self.flying: dict[int, Request] = {}
        self.backlog: deque[float] = deque()
        self._header_block, self._body = header_block, memoryview(body)
        self._decoder = HeaderDecoder()
        self._in = b""
        self._next_id = 1
        self._window = self._stream_window = wire.DEFAULT_WINDOW_BYTES
        self._max_streams = 100
        self._unacknowledged = 0
        self._out: deque[bytes | memoryview] = deque()
        self._out_bytes = 0
        settings = struct.pack(">HI", 0x4, ANSWERS_WINDOW_BYTES)
        self._put(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0, settings))
        self._put(wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", ANSWERS_WINDOW_BYTES)))

    @property
    def busy(self) -> bool:
        """A request is not answered yet."""
        return bool(self.flying or self.backlog)

    @property
    def writes(self) -> bool:
        """There is something that the socket did not take yet."""
        return bool(self._out)

    def ask(self, intended: float) -> None:
        """Sends a request that was meant to leave at `intended`, or keeps it until there is room."""
        self.backlog.append(intended)
        self.flush()

    def flush(self) -> None:
        """Writes what the windows and the socket take."""
        try:
            while True:
                self._make_frames()
                if not self._out:
                    return
                self._wrote(self.socket.sendmsg(list(islice(self._out, BUFFERS_AT_ONCE))))
        except BlockingIOError:
            return

    def read(self) -> None:
        """Takes in what has come. Raises ConnectionError if the server hung up."""
        data = self.socket.recv(2**18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._in += data
        at = 0
        while len(self._in) - at >= 9:
            high, low, kind, flags, stream_id = wire.FRAME_HEAD.unpack_from(self._in, at)
            end = at + 9 + (high << 8 | low)
            if end > len(self._in):
                break
            self._frame(kind, flags, stream_id, self._in[at + 9 : end])
            at = end
        self._in = self._in[at:]
        self.flush()

    def _put(self, data: bytes | memoryview) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _wrote(self, num_bytes: int) -> None:
        self._out_bytes -= num_bytes
        while num_bytes:
            first = self._out.popleft()
            if num_bytes < len(first):
                self._out.appendleft(memoryview(first)[num_bytes:])
                return
            num_bytes -= len(first)

    def _make_frames(self) -> None:
        for stream_id, request in self.flying.items():
            if request.rest and not self._send_body(stream_id, request):
                return
        while self.backlog and len(self.flying) < self._max_streams and self._out_bytes < OUT_BYTES:
            request = Request(self.backlog.popleft(), self._body, self._stream_window)
            self.seen.late.append(time.monotonic() - request.intended)
            self.flying[self._next_id] = request
            self._put(wire.frame(wire.HEADERS, wire.END_HEADERS, self._next_id, self._header_block))
            self._next_id += 2
            if not self._send_body(self._next_id - 2, request):
                return

    def _send_body(self, stream_id: int, request: Request) -> bool:
        """Puts what may leave into frames; False if the connection takes no more for now."""
        while request.rest and self._out_bytes < OUT_BYTES and self._window:
            size = min(FRAME_BYTES, len(request.rest), request.window, self._window)
            if size <= 0:
                return True
            last = size == len(request.rest)
            head = wire.FRAME_HEAD.pack(size >> 8, size & 0xFF, wire.DATA, wire.END_STREAM if last else 0, stream_id)
            self._put(head)
            self._put(request.rest[:size])
            request.rest = request.rest[size:]
            request.window -= size
            self._window -= size
        return not request.rest

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == wire.DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged > 2**20:
                self._put(wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged)))
                self._unacknowledged = 0
        elif kind == wire.HEADERS:
            fields = self._decoder.decode(payload)
            if flags & wire.END_STREAM:
                self._answered(stream_id, fields.get(b"grpc-status", b"no status").decode())
        elif kind == wire.RST_STREAM:
            self._answered(stream_id, "reset")
        elif kind == wire.SETTINGS and not flags & wire.ACK:
            self._on_settings(payload)
        elif kind == wire.PING and not flags & wire.ACK:
            self._put(wire.frame(wire.PING, wire.ACK, 0, payload))
        elif kind == wire.WINDOW_UPDATE:
            self._on_window(stream_id, struct.unpack(">I", payload)[0])
        elif kind in (wire.GOAWAY, wire.CONTINUATION):
            raise ConnectionError(f"got frame {kind}: {payload!r}")

    def _on_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 0x3:
                self._max_streams = value
            elif name == 0x4:
                for request in self.flying.values():
                    request.window += value - self._stream_window
                self._stream_window = value
        self._put(wire.frame(wire.SETTINGS, wire.ACK, 0))

    def _on_window(self, stream_id: int, more: int) -> None:
        if stream_id == 0:
            self._window += more
        elif stream_id in self.flying:
            self.flying[stream_id].window += more

    def _answered(self, stream_id: int, code: str) -> None:
        request = self.flying.pop(stream_id, None)
        if request is None:
            return
        self.seen.codes[code] += 1
        if code == "0":
            self.seen.latencies.append(time.monotonic() - request.intended)
        else:
            self.seen.failed_at.append(time.monotonic())


def clients_of(job: dict[str, Any], num: int, body: bytes) -> list[LoadClient]:
    """So many connections to the job's `url`, with its `headers`."""
    authority, _, path = job["url"].removeprefix("http://").partition("/")
    host, _, port = authority.partition(":")
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/" + path.encode())]
    fields.append((b":authority", authority.encode()))
    for header in job["headers"]:
        name, _, value = header.partition(": ")
        fields.append((name.encode(), value.encode()))
    block = wire.literal_headers(tuple(fields))
    return [LoadClient(host, int(port), block, body) for _ in range(num)]


def turn(clients: Sequence[LoadClient], seconds: float) -> list[LoadClient]:
    """Reads and writes whatever is ready within so many seconds; the clients that read something."""
    by_socket = {client.socket: client for client in clients}
    waiting = [client.socket for client in clients if client.writes]
    readable, writable, _ = select.select(list(by_socket), waiting, [], max(0.0, seconds))
    for ready in readable:
        by_socket[ready].read()
    for ready in writable:
        by_socket[ready].flush()
    return [by_socket[ready] for ready in readable]
