"""Frames that are almost right, against our HTTP/2: after each connection of them an honest call is answered right.

    python -m benchmarks.abuse.mutated_frames 1000000        by default with seed 0
    python -m benchmarks.abuse.mutated_frames 1000000 7

Each connection begins as a client would, then sends a script of frames of which some are mutated: bits flipped, bytes
cut, inserted or doubled, heads with another kind, flags, stream or length, frames left out, swapped or repeated, the
whole cut into pieces anywhere. No network: the connection is called as asyncio calls it. Prints how many frames were
sent and how connections ended; fails at the first call that is not answered right, with the seed of its connection.
"""

from __future__ import annotations

import asyncio
import random
import struct
import sys
import time
from collections import Counter
from typing import Any

import hpack

from service.api.calls import Answer
from service.transport.http2.budget import Shared
from service.transport.http2.connection import Connection
from service.transport.http2.limits import Limits
from service.transport.http2.server import Http2Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = "/test.Echo/Say"
SCRIPT_FRAMES = 60


class Echo:
    """Answers with what it was asked."""

    def unread(self, code: str) -> None:
        """See `calls.Call`."""

    async def answer(self, body: bytes, deadline: float, trace_id: str = "") -> Answer:
        """See `calls.Call`."""
        await asyncio.sleep(0)
        return Answer(body)


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport`, here and below."""
        self.written += data

    def get_extra_info(self, name: str) -> None:
        """Nothing."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing."""

    def get_write_buffer_size(self) -> int:
        """All is read."""
        return 0

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""

    def is_closing(self) -> bool:
        """Once closed."""
        return self.closed

    def can_write_eof(self) -> bool:
        """TCP."""
        return True

    def write_eof(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Ends it."""
        self.closed = True

    abort = close


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def script(random_: random.Random) -> list[bytes]:
    """What an honest client might send: calls, cancelled ones, windows, pings, settings."""
    encoder, frames, stream = hpack.Encoder(), [frame(4, 0, 0, b"")], -1
    while len(frames) < SCRIPT_FRAMES:
        what = random_.randrange(10)
        if what < 6:
            stream += 2
            fields = [(":method", "POST"), (":scheme", "http"), (":path", random_.choice((PATH, PATH, "/x/y")))]
            fields += [("content-type", "application/grpc"), ("te", "trailers"), ("x", "y" * random_.randrange(40))]
            body = random_.randbytes(random_.choice((0, 3, 100, 2000)))
            block, message = encoder.encode(fields), struct.pack(">BI", 0, len(body)) + body
            cut = random_.randrange(len(block))
            frames += (
                [frame(1, 0, stream, block[:cut]), frame(9, 4, stream, block[cut:])]
                if what == 0
                else [frame(1, 4, stream, block)]
            )
            frames += [frame(0, 0, stream, message[:3]), frame(0, 1, stream, message[3:])]
        elif what == 6:
            frames.append(frame(3, 0, max(1, stream), (8).to_bytes(4)))
        elif what == 7:
            frames.append(frame(8, 0, random_.choice((0, max(1, stream))), random_.randrange(1, 2**20).to_bytes(4)))
        elif what == 8:
            frames.append(frame(6, 0, 0, random_.randbytes(8)))
        else:
            frames.append(
                frame(4, 0, 0, struct.pack(">HI", random_.randrange(1, 7), random_.choice((0, 1, 2**14, 2**17))))
            )
    return frames


def mutated(random_: random.Random, one: bytes) -> bytes:
    """Almost the frame."""
    data = bytearray(one)
    if len(data) < 9:
        return one
    how = random_.randrange(8)
    at = random_.randrange(len(data))
    if how == 0:
        data[at] ^= 1 << random_.randrange(8)
    elif how == 1:
        del data[at:]
    elif how == 2:
        data[at:at] = random_.randbytes(random_.randrange(1, 9))
    elif how == 3:
        data += bytes(data)
    elif how == 4:
        data[3] = random_.randrange(12)
    elif how == 5:
        data[4] = random_.randrange(256)
    elif how == 6:
        data[5:9] = random_.choice((0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1)).to_bytes(4)
    else:
        data[0:3] = random_.choice((0, 1, 4, 8, 2**14, 2**14 + 1, 2**24 - 1)).to_bytes(3)
    return bytes(data)


class Run:
    """One server, many connections."""

    def __init__(self) -> None:
        calls: Any = {"Say": Echo()}
        self.ended: Counter[str] = Counter()
        self.server = Http2Server({"test.Echo": calls}, None, 2**20, Limits(), lambda _: None)
        self.shared = Shared(Limits())
        self.num_frames = 0

    def _connect(self) -> tuple[Connection, Sink]:
        connection, sink = Connection(self.server, self.server._register, self.shared), Sink()
        connection.connection_made(sink)  # type: ignore[arg-type]
        return connection, sink

    async def once(self, seed: int) -> None:
        """A mutated connection, then an honest one."""
        random_ = random.Random(seed)
        connection, _ = self._connect()
        frames = script(random_)
        for _ in range(random_.randrange(1, 6)):
            at = random_.randrange(1, len(frames))
            how = random_.randrange(4)
            if how == 0:
                frames.append(frames.pop(at))
            else:
                frames[at] = mutated(random_, frames[at])
        data = PREFACE + b"".join(frames)
        while data:
            size = random_.choice((1, 9, 100, len(data)))
            connection.data_received(data[:size])
            data = data[size:]
            if not random_.randrange(3):
                await asyncio.sleep(0)
        self.num_frames += len(frames)
        for _ in range(8):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        self.ended[connection.reason] += 1
        await asyncio.sleep(0)
        await self._honest(seed)

    async def _honest(self, seed: int) -> None:
        connection, sink = self._connect()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", PATH), ("content-type", "application/grpc")]
        body = b"\0\0\0\0\4" + seed.to_bytes(4)
        head = frame(1, 4, 1, hpack.Encoder().encode(fields))
        connection.data_received(PREFACE + frame(4, 0, 0, b"") + head + frame(0, 1, 1, body))
        for _ in range(8):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        held = self.shared.received.held, self.shared.unsent.held
        if frame(0, 0, 1, body) not in sink.written or held != (0, 0):
            raise AssertionError(
                f"seed {seed}: an honest call got {bytes(sink.written)!r}, held {held}, expected (0, 0)"
            )


async def send(num_frames: int, seed: int) -> Run:
    """Sends so many frames."""
    run = Run()
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    while run.num_frames < num_frames:
        await run.once(seed)
        if faults:
            raise AssertionError(f"seed {seed}: {faults[0]}")
        seed += 1
    return run


def main(num_frames: int, seed: int) -> None:
    """Prints what came of it."""
    started = time.monotonic()
    run = asyncio.run(send(num_frames, seed))
    print(f"{run.num_frames} frames on {sum(run.ended.values())} connections in {time.monotonic() - started:.0f} s")
    print(f"every honest call was answered right; connections ended: {dict(run.ended)}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
