"""Streams over our HTTP/2 with a peer that speaks it by hand: framing, windows, a peer that does not read."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from latentserve.v1 import embedding_pb2 as pb
from service.api.calls import SERVICE, Call, StreamCall
from service.api.ordered_stream import Bounds
from service.observing.metrics import Metrics
from service.transport.http2 import frames as wire
from service.transport.http2.limits import Limits
from service.transport.http2.server import Http2Server
from tests.fakes import FakeScores
from tests.service.transport.test_http2 import Peer

PATH = "/latentserve.v1.EmbeddingService/ScoreStream"
LIMITS = Limits()
LIMIT = 4
FRAME_BYTES = LIMITS.frame_bytes
Body = Callable[[Peer, FakeScores, Metrics], Awaitable[None]]


def with_server(body: Body) -> None:
    async def run() -> None:
        scores, metrics = FakeScores(), Metrics()
        call = Call("ScoreStream", pb.ScoreStreamRequest, scores.score, metrics)
        calls: Any = {"ScoreStream": StreamCall(call, pb.ScoreStreamResponse, Bounds(max_requests=LIMIT))}
        server = Http2Server({SERVICE.full_name: calls}, None, max_request_bytes=2**22)
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
        peer = Peer(reader, writer)
        peer.send(wire.PREFACE, wire.frame(wire.SETTINGS, 0, 0))
        try:
            async with asyncio.timeout(20):
                await body(peer, scores, metrics)
        finally:
            writer.close()
            scores.open.set()
            await server.stop(1)

    asyncio.run(run())


def begin(peer: Peer, stream: int, timeout: str = "1H") -> None:
    headers = [(":method", "POST"), (":scheme", "http"), (":path", PATH), ("content-type", "application/grpc")]
    headers.append(("grpc-timeout", timeout))
    peer.send(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, peer.encoder.encode(headers)))


def message(number: int, name: str = "") -> bytes:
    request = pb.ScoreRequest(model=pb.ModelSelector(name=name))
    body = pb.ScoreStreamRequest(id=number, request=request).SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


def data(stream: int, payload: bytes, ended: bool = False) -> bytes:
    return wire.frame(wire.DATA, wire.END_STREAM if ended else 0, stream, payload)


async def answers(peer: Peer) -> tuple[list[int], dict[str, str]]:
    """The ids of the next stream that ends, and its trailers."""
    body, headers_seen = b"", 0
    while True:
        kind, flags, _, payload = await peer.frame()
        if kind == wire.DATA:
            body += payload
        if kind == wire.HEADERS:
            headers_seen += 1
            headers = {str(name): str(value) for name, value in peer.decoder.decode(payload)}
            assert (":status" in headers) == (headers_seen == 1)  # never in trailers
            if flags & wire.END_STREAM:
                break
    ids = []
    while body:
        size = int.from_bytes(body[1:5])
        ids.append(pb.ScoreStreamResponse.FromString(body[5 : 5 + size]).id)
        body = body[5 + size :]
    return ids, headers


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        (b"", "0", ""),
        (b"\x01" + message(3)[1:], "13", "got a compressed message"),
        (message(3)[:-1], "13", "bytes of a message, expected all of it"),
        (message(3)[:3], "13", "got 3 bytes of a message"),
        (struct.pack(">BI", 0, 2**22 + 1), "8", "got more than 4194304 bytes"),
        (struct.pack(">BI", 0, 1) + b"\xff", "3", "got 1 bytes, expected a ScoreStreamRequest"),
    ],
)
def test_what_breaks_the_framing_ends_the_stream_after_what_was_good(last: bytes, status: str, said: str) -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        begin(peer, 1)
        peer.send(data(1, message(1) + message(2) + last, ended=True))
        await asyncio.sleep(0.05)
        scores.open.set()
        ids, trailers = await answers(peer)
        assert (ids, trailers["grpc-status"]) == ([1, 2], status)
        assert said in trailers.get("grpc-message", "")

    with_server(body)


def test_messages_may_come_in_any_pieces() -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        scores.open.set()
        begin(peer, 1)
        for byte in message(1) + message(2, "m") + message(3):
            peer.send(data(1, bytes([byte])))
            await peer.writer.drain()
        peer.send(data(1, b"", ended=True))
        assert await answers(peer) == ([1, 2, 3], {"grpc-status": "0"})

    with_server(body)


def test_a_message_larger_than_the_window_gets_through() -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        begin(peer, 1)
        large = message(1, "x" * 3 * LIMITS.stream_window_bytes)
        window = LIMITS.stream_window_bytes
        widen(peer)
        scores.open.set()
        for start in range(0, len(large), FRAME_BYTES):
            part = large[start : start + FRAME_BYTES]
            while window < len(part):
                _, stream, payload = await peer.until(wire.WINDOW_UPDATE)
                window += int.from_bytes(payload) if stream == 1 else 0
            peer.send(data(1, part, ended=start + FRAME_BYTES >= len(large)))
            window -= len(part)
        assert await answers(peer) == ([1], {"grpc-status": "0"})

    with_server(body)


def widen(peer: Peer) -> None:
    """Takes answers of any size."""
    peer.send(wire.frame(wire.SETTINGS, 0, 0, struct.pack(">HI", 0x4, 2**31 - 1)))
    peer.send(wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30)))


def fill(peer: Peer, stream: int) -> None:
    """Sends as much as a new stream may, in messages of a frame each."""
    begin(peer, stream)
    left = LIMITS.stream_window_bytes
    number = 0
    while left:
        small = message(number, "x" * (FRAME_BYTES - 100))
        peer.send(data(stream, small[:left]))
        left -= len(small[:left])
        number += 1


async def updates(peer: Peer) -> set[int]:
    """Streams that are given room before all is quiet."""
    given = set()
    try:
        while True:
            _, stream, _ = await asyncio.wait_for(peer.until(wire.WINDOW_UPDATE), 0.5)
            given.add(stream)
    except TimeoutError:
        return given


def test_a_stream_that_is_full_gets_no_room_and_the_connection_does() -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        widen(peer)
        await updates(peer)
        streams = range(1, 21, 2)  # 10 MiB: more than half of the connection's window
        for stream in streams:
            fill(peer, stream)
        given = await updates(peer)
        assert 0 in given
        assert len(scores.begun) == LIMIT * len(streams)
        assert not given & set(streams)
        scores.open.set()
        assert await updates(peer) >= set(streams)

    with_server(body)


def test_a_peer_that_sends_more_than_its_room_is_dropped() -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        fill(peer, 1)
        peer.send(data(1, b"x"))
        _, _, payload = await peer.until(wire.GOAWAY)
        assert struct.unpack_from(">II", payload)[1] == wire.FLOW_CONTROL_ERROR

    with_server(body)


def test_wide_windows_do_not_help_a_peer_that_does_not_read() -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        widen(peer)
        scores.answer_bytes = 2**20
        scores.open.set()
        begin(peer, 1)
        for number in range(500):
            peer.send(data(1, message(number)))
        before = -1
        while before < len(scores.begun):
            before = len(scores.begun)
            await asyncio.sleep(0.3)
        assert before < 50  # the kernel's buffers take some, the server's do not take 500 MiB

    with_server(body)


def test_the_deadline_ends_the_stream_and_what_is_under_way() -> None:
    async def body(peer: Peer, scores: FakeScores, metrics: Metrics) -> None:
        begin(peer, 1, "200m")
        for number in range(9):
            peer.send(data(1, message(number)))
        ids, trailers = await answers(peer)
        assert (ids, trailers["grpc-status"]) == ([], "4")
        await asyncio.sleep(0.05)
        assert scores.cancelled == list(range(LIMIT))
        labels = {"method": "ScoreStream", "model": "", "code": "DEADLINE_EXCEEDED"}
        assert metrics.registry.get_sample_value("latentserve_requests_total", labels) == LIMIT

    with_server(body)
