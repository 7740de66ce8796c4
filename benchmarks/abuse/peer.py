"""A client of HTTP/2 that does as it is told, not as it should: raw frames over a blocking socket. For attacks."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE, WIDEST, DEFAULT_WINDOW = 4, 2**31 - 1, 65535
LARGEST_FRAME = 16384
EMBED = "/latentserve.v1.EmbeddingService/Embed"
SCORE_STREAM = "/latentserve.v1.EmbeddingService/ScoreStream"
WATCH = "/grpc.health.v1.Health/Watch"
SEND_SECONDS = 3.0
"""A server that takes nothing for so long has stopped reading."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """As RFC 9113 has it in section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def data_frames(stream: int, body: bytes, ended: bool) -> bytes:
    """A body in as many frames as it takes."""
    parts = [body[at : at + LARGEST_FRAME] for at in range(0, len(body), LARGEST_FRAME)]
    return b"".join(frame(DATA, END_STREAM if ended and part is parts[-1] else 0, stream, part) for part in parts)


def window_update(stream: int, more: int) -> bytes:
    """More room for the other side."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def setting(name: int, value: int) -> bytes:
    """One entry of SETTINGS."""
    return struct.pack(">HI", name, value)


def message(body: bytes) -> bytes:
    """With gRPC's prefix."""
    return struct.pack(">BI", 0, len(body)) + body


def fields(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The header fields of a gRPC call."""
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    return [*named.items(), ("content-type", "application/grpc"), ("te", "trailers"), *more]


class Peer:
    """One connection.

    Args:
        target: host:port.
        settings: entries of our first SETTINGS.
        greets: whether it sends the preface at once, and acknowledges what it is told.
        receive_bytes: of the socket's receive buffer; 0: the system's.

    Attributes:
        stream: the last one that was opened.
        is_open: as far as we have noticed.
    """

    def __init__(self, target: str, settings: bytes = b"", greets: bool = True, receive_bytes: int = 0) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(10)
        self._socket.connect((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encoder = hpack.Encoder()
        self._buffer = b""
        self._initial, self._room = DEFAULT_WINDOW, DEFAULT_WINDOW
        self._rooms: dict[int, int] = {}
        self._greets = greets
        self.stream = -1
        self.is_open = True
        if greets:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def send(self, sent: bytes, seconds: float = SEND_SECONDS) -> bool:
        """Whether all of it went out. If not, the server has closed the connection, or does not read for so long."""
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(sent)
        except TimeoutError:
            return False
        except OSError:
            self.is_open = False
        return self.is_open

    def opening(self, path: str, *more: tuple[str, str], ended: bool = False) -> bytes:
        """The HEADERS of one more stream."""
        self.stream += 2
        self._rooms[self.stream] = self._initial
        block = self._encoder.encode(fields(path, *more))
        return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), self.stream, block)

    def short_block(self, path: str, *more: tuple[str, str]) -> bytes:
        """Opens a stream, whose fields the server's table then holds; returns a few bytes that stand for them."""
        self.send(self.opening(path, *more))
        block: bytes = self._encoder.encode(fields(path, *more))
        return block

    def taken(self, seconds: float = 0.0, most: int = 1 << 30) -> bool:
        """Reads what has come, waiting so long for some, and heeds it; whether the connection is open."""
        self._socket.settimeout(seconds)
        got = 0
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while got < most:
                try:
                    came = self._socket.recv(min(most, 1 << 18))
                except (ConnectionError, OSError) as error:
                    if isinstance(error, (BlockingIOError, TimeoutError)):
                        raise
                    came = b""
                if not came:
                    self.is_open = False
                    break
                self._buffer += came
                got += len(came)
                self._socket.settimeout(0)
        for kind, flags, stream, payload in self._frames():
            self._heed(kind, flags, stream, payload)
        return self.is_open

    def room(self, stream: int) -> int:
        """Bytes of body that may be sent on it now."""
        return min(self._room, self._rooms[stream], LARGEST_FRAME)

    def send_body(self, stream: int, body: bytes) -> bool:
        """One frame of a body, no longer than `room`. Whether it went out."""
        self._room -= len(body)
        self._rooms[stream] -= len(body)
        return self.send(frame(DATA, 0, stream, body))

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._buffer) >= 9:
            end = 9 + int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < end:
                return
            head, payload = self._buffer[:9], self._buffer[9:end]
            self._buffer = self._buffer[end:]
            yield head[3], head[4], int.from_bytes(head[5:], "big") & WIDEST, payload

    def _heed(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._room += more
            elif stream in self._rooms:
                self._rooms[stream] += more
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == INITIAL_WINDOW_SIZE:
                    self._rooms = {one: room + value - self._initial for one, room in self._rooms.items()}
                    self._initial = value
            if self._greets:
                self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and self._greets and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
