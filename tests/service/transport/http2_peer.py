"""A connection of our HTTP/2 without a network: bytes in, frames out, at the speed of function calls."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import hpack

from service.api.calls import SERVICE
from service.transport.http2.budget import Shared
from service.transport.http2.connection import Connection
from service.transport.http2.limits import Limits
from service.transport.http2.server import Http2Server
from tests.service.transport.test_http2 import PATH, Echo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
Fields = list[tuple[str, str]]
POST: Fields = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x")]
CALL: Fields = [*POST, ("content-type", "application/grpc"), ("te", "trailers")]
HELLO = b"\0\0\0\0\5hello"


def raw(kind: int, flags: int, stream: int, payload: bytes = b"", size: int | None = None) -> bytes:
    """A frame, built by hand: what is tested is not used to test it."""
    size = len(payload) if size is None else size
    return size.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def block(fields: Fields) -> bytes:
    """A header block of another implementation than ours; refers to no earlier one."""
    encoded: bytes = hpack.Encoder().encode(fields)
    return encoded


def head(stream: int, ends: bool = False, fields: Fields | None = None) -> bytes:
    """HEADERS of a call."""
    return raw(HEADERS, 0x4 | ends, stream, block(CALL if fields is None else fields))


def call(stream: int, body: bytes = HELLO) -> bytes:
    """A whole call."""
    return head(stream) + raw(DATA, 1, stream, body)


class FakeTransport:
    """TCP to a peer that reads, until `full`."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.closed = self.eof = False
        self.buffered = 0

    def write(self, data: bytes) -> None:
        assert not self.eof
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    abort = close


class Served:
    """A connection, what answers on it, and what it has sent.

    Attributes:
        reasons: for which connections closed.
    """

    def __init__(self, limits: Limits | None = None, max_request_bytes: int = 2**22) -> None:
        self.echo = Echo()
        self.reasons: list[str] = []
        calls: Any = {"Echo": self.echo}
        limits = limits or Limits()
        self.server = Http2Server({SERVICE.full_name: calls}, None, max_request_bytes, limits, self.reasons.append)
        self.shared = Shared(limits)
        self.decoder = hpack.Decoder()
        self.connect()

    def connect(self) -> None:
        """A new connection."""
        self.connection = Connection(self.server, self.server._register, self.shared)
        self.transport = FakeTransport()
        self.decoder = hpack.Decoder()
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    async def send(self, *data: bytes) -> None:
        """Sends, and lets the server work."""
        for part in data:
            self.connection.data_received(part)
        await self.settle()

    async def settle(self) -> None:
        """Until nothing is written any more."""
        before = -1
        while before != len(self.transport.written) or self.connection._turn_due:
            before = len(self.transport.written)
            for _ in range(6):
                await asyncio.sleep(0)

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """What was sent since last asked: kind, flags, stream, payload."""
        found, at, written = [], 0, bytes(self.transport.written)
        while at < len(written):
            size = int.from_bytes(written[at : at + 3])
            kind, flags, stream = written[at + 3], written[at + 4], int.from_bytes(written[at + 5 : at + 9])
            found.append((kind, flags, stream, written[at + 9 : at + 9 + size]))
            at += 9 + size
        self.transport.written.clear()
        return found

    def seen(self) -> list[str]:
        """The same in words, without what is no answer to anything."""
        words = []
        for kind, flags, stream, payload in self.frames():
            if kind == HEADERS:
                fields = dict(self.decoder.decode(payload))
                status = fields.get("grpc-status", fields.get(":status")) if flags & 1 else None
                words += [f"end {stream} {status}"] if flags & 1 else []
            elif kind == DATA:
                words.append(f"data {stream} {len(payload)}")
            elif kind == RST_STREAM:
                words.append(f"reset {stream} {int.from_bytes(payload)}")
            elif kind == GOAWAY:
                words.append(f"goaway {struct.unpack_from('>I', payload, 4)[0]}")
            elif kind == PING:
                words.append("pong" if flags & 1 else "ping")
            elif kind == SETTINGS and flags & 1:
                words.append("settings")
        return words

    async def is_honest(self) -> bool:
        """Whether a call on a connection of its own is answered right."""
        self.connect()
        await self.send(PREFACE + raw(SETTINGS, 0, 0) + call(1))
        return self.seen() == ["settings", "data 1 10", "end 1 0"]
