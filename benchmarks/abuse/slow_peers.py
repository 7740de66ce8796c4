"""Peers that are slow, or wait for ever: each holds something of the server's as long as it is let. See `attacks`."""

from __future__ import annotations

import time

from benchmarks.abuse.attacks import ROWS, SMALL_BUFFER, Attack, Effort, Held, request
from benchmarks.abuse.peer import (
    DEFAULT_WINDOW,
    EMBED,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME,
    PREFACE,
    SETTINGS,
    WIDEST,
    Peer,
    data_frames,
    frame,
    setting,
    window_update,
)


def zero_window(target: str, effort: Effort, held: Held) -> str:
    """Answers that nobody makes room for, until long after the deadline of their calls."""
    peer = Peer(target, setting(INITIAL_WINDOW_SIZE, 0))
    held.append(peer)
    body, asked = request(ROWS), 0
    for _ in range(effort.times(200)):
        head = peer.opening(EMBED, ("grpc-timeout", "2S"))
        if not peer.send(head + data_frames(peer.stream, body, ended=True)):
            break
        asked += 1
        peer.taken(0.02)
    end = time.monotonic() + effort.seconds
    while time.monotonic() < end and peer.taken(0.1):
        pass
    return f"{asked} answers, {'open' if peer.is_open else 'closed'}"


def slow_readers(target: str, effort: Effort, held: Held) -> str:
    """Two hundred who ask for 1 MB each and read 100 bytes a second."""
    body = request(ROWS)
    readers = [
        Peer(target, setting(INITIAL_WINDOW_SIZE, WIDEST), receive_bytes=SMALL_BUFFER) for _ in range(effort.times(200))
    ]
    held.extend(readers)
    for peer in readers:
        head = window_update(0, WIDEST - DEFAULT_WINDOW) + peer.opening(EMBED)
        peer.send(head + data_frames(peer.stream, body, ended=True))
    end = time.monotonic() + 2 * effort.seconds
    while time.monotonic() < end:
        for peer in readers:
            if peer.is_open:
                peer.taken(most=100)
        time.sleep(1)
    return f"{sum(peer.is_open for peer in readers)} of {len(readers)} open"


def slow_senders(target: str, effort: Effort, held: Held) -> str:
    """Three hundred who send a byte a second, from the preface on. They must be gone in a minute; we look for 70 s."""
    senders = [Peer(target, greets=False) for _ in range(effort.times(300))]
    held.extend(senders)
    first = senders[0]
    said = PREFACE + frame(SETTINGS, 0, 0) + first.opening(EMBED)
    began, last, place = time.monotonic(), 0.0, 0
    while time.monotonic() - began < effort.patience_seconds and any(peer.is_open for peer in senders):
        for peer in senders:
            if peer.is_open and not (peer.send(said[place : place + 1]) and peer.taken()):
                last = time.monotonic() - began
        place = min(place + 1, len(said) - 1)
        time.sleep(1)
    return f"{sum(peer.is_open for peer in senders)} of {len(senders)} open, the last closed after {last:.0f} s"


def idle(target: str, effort: Effort, held: Held) -> str:
    """Two thousand connections that greet and then say nothing."""
    held.extend(Peer(target) for _ in range(effort.times(2000)))
    time.sleep(effort.seconds)
    return f"{sum(peer.taken() for peer in held)} of {len(held)} open"


def unfinished_bodies(target: str, effort: Effort, held: Held) -> str:
    """Thirty requests of 60 MB, as the windows allow, none of which comes to its end."""
    peer = Peer(target)
    held.append(peer)
    streams = []
    for _ in range(30):
        peer.send(peer.opening(EMBED))
        streams.append(peer.stream)
    peer.taken(0.5)
    chunk, total, end = bytes(LARGEST_FRAME), 0, time.monotonic() + 2 * effort.seconds
    for stream in streams:
        peer.send_body(stream, b"\0" + (60 << 20).to_bytes(4, "big"))
    while time.monotonic() < end and total < effort.times(30 * 60 << 20) and peer.taken(0.001):
        for stream in streams:
            room = peer.room(stream)
            if room > 0 and peer.send_body(stream, chunk[:room]):
                total += room
    return f"{total / 2**20:.0f} MiB, {'open' if peer.is_open else 'closed'}"


SLOW: tuple[Attack, ...] = (zero_window, slow_readers, slow_senders, idle, unfinished_bodies)
