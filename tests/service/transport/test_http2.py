"""Our HTTP/2 against a peer that speaks it by hand: limits, flow control, misbehaviour."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from typing import Any

import hpack
import pytest

from service.api.calls import SERVICE, Answer
from service.transport.http2 import frames as wire
from service.transport.http2.frames import ProtocolError, literal_headers
from service.transport.http2.headers import HeaderDecoder
from service.transport.http2.limits import Limits
from service.transport.http2.server import Http2Server

LIMITS = Limits()
PATH = "/latentserve.v1.EmbeddingService/Echo"


class Echo:
    """A call that answers with what it was sent, when it is let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0
        self.unread_codes: list[str] = []
        self.trace_ids: list[str] = []

    def unread(self, code: str) -> None:
        self.unread_codes.append(code)

    async def answer(self, body: bytes, deadline: float, trace_id: str = "") -> Answer:
        self.trace_ids.append(trace_id)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Answer(body)


class Peer:
    """A client that writes frames and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def request(
        self,
        stream: int,
        body: bytes = b"hello",
        timeout: str | None = None,
        path: str = PATH,
        traceparent: str | None = None,
    ) -> None:
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
        if timeout:
            headers.append(("grpc-timeout", timeout))
        if traceparent:
            headers.append(("traceparent", traceparent))
        block = self.encoder.encode(headers)
        message = struct.pack(">BI", 0, len(body)) + body
        self.send(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, block))
        parts = [message[i : i + 16_384] for i in range(0, len(message), 16_384)]
        for part in parts:
            self.send(wire.frame(wire.DATA, wire.END_STREAM if part is parts[-1] else 0, stream, part))

    async def frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, stream and payload of the next frame."""
        head = await asyncio.wait_for(self.reader.readexactly(9), 5)
        size = int.from_bytes(head[:3])
        return head[3], head[4], int.from_bytes(head[5:]), await self.reader.readexactly(size)

    async def until(self, kind: int) -> tuple[int, int, bytes]:
        """Flags, stream and payload of the next frame of a kind."""
        while True:
            got, flags, stream, payload = await self.frame()
            if got == kind:
                return flags, stream, payload

    async def answer(self) -> tuple[int, bytes, dict[str, str]]:
        """Stream, body and trailers of the next answer that ends."""
        bodies: dict[int, bytes] = {}
        while True:
            kind, flags, stream, payload = await self.frame()
            if kind == wire.DATA:
                bodies[stream] = bodies.get(stream, b"") + payload
            if kind == wire.HEADERS:
                headers = {str(name): str(value) for name, value in self.decoder.decode(payload)}
                if flags & wire.END_STREAM:
                    return stream, bodies.get(stream, b"")[5:], headers


def with_server(body: Any, max_request_bytes: int = 2**22) -> None:
    async def run() -> None:
        echo = Echo()
        calls: Any = {"Echo": echo}
        server = Http2Server({SERVICE.full_name: calls}, None, max_request_bytes)
        port = await server.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer = Peer(reader, writer)
        peer.send(wire.PREFACE, wire.frame(wire.SETTINGS, 0, 0))
        try:
            await body(peer, echo, server)
        finally:
            writer.close()
            echo.gate.set()
            await server.stop(1)

    coroutine: Coroutine[Any, Any, None] = run()
    asyncio.run(asyncio.wait_for(coroutine, 20))


def test_a_request_is_answered_with_its_status() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1)
        peer.request(3, b"again")
        assert await peer.answer() == (1, b"hello", {"grpc-status": "0"})
        assert await peer.answer() == (3, b"again", {"grpc-status": "0"})

    with_server(body)


def test_calls_that_end_before_their_request_is_whole_are_counted() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        sent: list[bytes] = []
        send, peer.send = peer.send, lambda *frames: sent.extend(frames)  # type: ignore[method-assign]
        for stream, timeout in ((1, "20m"), (3, None)):
            peer.request(stream, timeout=timeout)
            send(sent[-2])  # the headers alone
        assert (await peer.answer())[2]["grpc-status"] == "4"
        send(wire.frame(wire.RST_STREAM, 0, 1, struct.pack(">I", 8)))  # of the answered call: not counted again
        send(wire.frame(wire.RST_STREAM, 0, 3, struct.pack(">I", 8)))
        peer.request(5, bytes(5000))
        send(sent[-2], sent[-1])
        assert (await peer.answer())[2]["grpc-status"] == "8"
        assert echo.unread_codes == ["DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"]

    with_server(body, max_request_bytes=4000)


def test_the_callers_sampled_trace_is_passed_on() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        peer.request(3, traceparent=f"00-{trace}-00f067aa0ba902b7-00")  # not sampled
        peer.request(5, traceparent="nonsense")
        for _ in range(3):
            await peer.answer()
        assert echo.trace_ids == [trace, "", ""]

    with_server(body)


def test_bytes_may_come_one_by_one() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        sent: list[bytes] = []
        peer.send = lambda *frames: sent.extend(frames)  # type: ignore[method-assign]
        peer.request(1)
        for byte in b"".join(sent):
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
        assert (await peer.answer())[1] == b"hello"

    with_server(body)


def test_an_answer_larger_than_the_windows_waits_for_them() -> None:
    large = bytes(range(256)) * 2000  # 512,000 bytes through windows of 65,535

    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1, large)
        received = b""
        while len(received) < len(large) + 5:
            _, _, payload = await peer.until(wire.DATA)
            received += payload
            assert len(payload) <= 16_384
            more = struct.pack(">I", len(payload))
            peer.send(wire.frame(wire.WINDOW_UPDATE, 0, 0, more), wire.frame(wire.WINDOW_UPDATE, 0, 1, more))
        assert received[5:] == large

    with_server(body)


def test_without_window_nothing_is_sent() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1, bytes(200_000))
        received = 0
        while received < 65_535:
            received += len((await peer.until(wire.DATA))[2])
        assert received == 65_535
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.until(wire.DATA), 0.3)

    with_server(body)


def test_a_request_over_the_limit_is_refused() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1, bytes(5000))
        _, _, trailers = await peer.answer()
        assert trailers["grpc-status"] == "8"
        assert "got more than 1000 bytes" in trailers["grpc-message"]
        peer.request(3, b"small")
        assert (await peer.answer())[:2] == (3, b"small")

    with_server(body, max_request_bytes=1000)


@pytest.mark.parametrize(
    ("timeout", "status"), [("20m", "4"), ("20000u", "4"), ("1H", "0"), ("abc", "13"), ("123456789S", "13")]
)
def test_the_callers_timeout_is_the_deadline(timeout: str, status: str) -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        if status == "4":
            echo.gate.clear()
        peer.request(1, timeout=timeout)
        _, _, trailers = await peer.answer()
        assert trailers["grpc-status"] == status
        await asyncio.sleep(0)
        assert echo.cancelled == (1 if status == "4" else 0)

    with_server(body)


def test_a_cancelled_stream_cancels_its_call_and_no_other() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        echo.gate.clear()
        peer.request(1)
        peer.request(3)
        await asyncio.sleep(0.05)
        peer.send(wire.frame(wire.RST_STREAM, 0, 1, struct.pack(">I", 8)))
        await asyncio.sleep(0.05)
        assert echo.cancelled == 1
        echo.gate.set()
        assert (await peer.answer())[:2] == (3, b"hello")

    with_server(body)


def test_an_unknown_method_is_unimplemented() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1, path="/other.Service/Call")
        assert (await peer.answer())[2]["grpc-status"] == "12"

    with_server(body)


def test_a_ping_is_answered() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.send(wire.frame(wire.PING, 0, 0, b"12345678"))
        assert await peer.until(wire.PING) == (wire.ACK, 0, b"12345678")

    with_server(body)


def reset_ahead() -> bytes:
    """More cancelled streams than a peer may have."""
    head = (b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH.encode())
    block = literal_headers((*head, (b"content-type", b"application/grpc")))
    return b"".join(
        wire.frame(wire.HEADERS, wire.END_HEADERS, stream, block)
        + wire.frame(wire.RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 4 * LIMITS.resets, 2)
    )


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (wire.FRAME_HEAD.pack(LIMITS.frame_bytes + 1 >> 8, 1, wire.DATA, 0, 1), wire.FRAME_SIZE_ERROR),
        (wire.frame(wire.DATA, 0, 1, b"x"), wire.PROTOCOL_ERROR),
        (wire.frame(wire.HEADERS, wire.END_HEADERS, 2, b""), wire.PROTOCOL_ERROR),
        (wire.frame(wire.HEADERS, wire.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), wire.COMPRESSION_ERROR),
        (wire.frame(wire.HEADERS, wire.END_HEADERS | wire.PADDED, 1, b"\x09abc"), wire.PROTOCOL_ERROR),
        (wire.frame(wire.HEADERS, 0, 1, b"a") + wire.frame(wire.PING, 0, 0, bytes(8)), wire.PROTOCOL_ERROR),
        (
            wire.frame(wire.HEADERS, 0, 1, b"") + 20 * wire.frame(wire.CONTINUATION, 0, 1, bytes(16_000)),
            wire.ENHANCE_YOUR_CALM,
        ),
        (wire.frame(wire.CONTINUATION, 0, 1, b""), wire.PROTOCOL_ERROR),
        (wire.frame(wire.SETTINGS, 0, 0, b"abc"), wire.FRAME_SIZE_ERROR),
        (wire.frame(wire.WINDOW_UPDATE, 0, 0, bytes(4)), wire.PROTOCOL_ERROR),  # RFC 9113, 6.9
        (wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)), wire.FLOW_CONTROL_ERROR),
        (wire.frame(wire.PUSH_PROMISE, 0, 1, b""), wire.PROTOCOL_ERROR),
        (wire.frame(wire.RST_STREAM, 0, 9, bytes(4)), wire.PROTOCOL_ERROR),
        (reset_ahead(), wire.ENHANCE_YOUR_CALM),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_and_dropped(sent: bytes, code: int) -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.send(sent)
        _, _, payload = await peer.until(wire.GOAWAY)
        assert struct.unpack_from(">II", payload)[1] == code
        assert await asyncio.wait_for(peer.reader.read(), 5) == b""

    with_server(body)


def test_a_request_answered_before_it_is_whole_is_ended_on_both_sides() -> None:
    """grpcio holds the stream open otherwise, and calls it broken, with its answer, when the connection ends."""

    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1, b"x" * 5000)
        peer.send(wire.frame(wire.DATA, 0, 1, b"more"))  # of a stream that has ended: nobody minds
        assert (await peer.answer())[2]["grpc-status"] == "8"
        peer.request(3)
        assert await peer.answer() == (3, b"hello", {"grpc-status": "0"})

        head = [(":method", "POST"), (":scheme", "http"), (":path", PATH), ("content-type", "application/grpc")]
        block = peer.encoder.encode(head)
        peer.send(wire.frame(wire.HEADERS, wire.END_HEADERS, 5, block), wire.frame(wire.DATA, 0, 5, bytes(5000)))
        assert (await peer.answer())[2]["grpc-status"] == "8"
        kind, _, stream, payload = await peer.frame()
        assert (kind, stream, payload) == (wire.RST_STREAM, 5, struct.pack(">I", wire.NO_ERROR))

    with_server(body, max_request_bytes=4000)


def test_a_client_of_another_protocol_is_dropped() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        port = peer.writer.get_extra_info("peername")[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"prior knowledge" in await asyncio.wait_for(reader.read(), 5)
        writer.close()

    with_server(body)


def test_draining_answers_what_is_under_way_and_refuses_the_rest() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        echo.gate.clear()
        peer.request(1)
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(server.stop(5))
        assert (await peer.until(wire.GOAWAY))[2][:4] == struct.pack(">I", wire.LARGEST_STREAM_ID)
        _, _, ping = await peer.until(wire.PING)
        peer.request(3)  # it was on its way when the server said that it goes
        peer.send(wire.frame(wire.PING, wire.ACK, 0, ping))
        assert (await peer.until(wire.GOAWAY))[2][:4] == struct.pack(">I", 3)
        peer.request(5)
        assert (await peer.until(wire.RST_STREAM))[1:] == (5, struct.pack(">I", wire.REFUSED_STREAM))
        echo.gate.set()
        assert {(await peer.answer())[0], (await peer.answer())[0]} == {1, 3}
        assert not stopping.done()  # the client may still be reading: it closes
        peer.writer.close()
        await asyncio.wait_for(stopping, LIMITS.linger_seconds)

    with_server(body)


def test_a_drained_connection_is_not_reset_by_what_the_client_sends_late() -> None:
    async def body(peer: Peer, echo: Echo, server: Http2Server) -> None:
        peer.request(1)
        assert (await peer.answer())[:2] == (1, b"hello")
        echo.gate.clear()
        peer.request(3)
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(server.stop(5))
        echo.gate.set()
        assert (await peer.answer())[:2] == (3, b"hello")
        kind, _, _, payload = await peer.frame()  # no PING came back: it did not wait for it
        assert (kind, payload[:4]) == (wire.GOAWAY, struct.pack(">I", 3))
        assert await peer.reader.read() == b""
        for _ in range(3):
            peer.send(wire.frame(wire.PING, 0, 0, b"12345678"))
            await peer.writer.drain()
            await asyncio.sleep(0.05)
        await asyncio.wait_for(stopping, 2 * LIMITS.linger_seconds + 1)  # a client that does not close is closed

    with_server(body)


def test_repeated_header_blocks_decode_as_if_they_were_new() -> None:
    encoder, ours, oracle = hpack.Encoder(), HeaderDecoder(), hpack.Decoder()
    for number in range(300):
        headers = [(":path", "/a" if number % 3 else f"/{number % 50}"), ("x", str(number % 7)), ("grpc-timeout", "1S")]
        block = encoder.encode(headers)
        expected = {bytes(name): bytes(value) for name, value in oracle.decode(block, raw=True)}
        assert ours.decode(block) == expected
        again = encoder.encode(headers)
        assert ours.decode(again) == {bytes(name): bytes(value) for name, value in oracle.decode(again, raw=True)}


def test_a_block_that_is_none_is_refused() -> None:
    with pytest.raises(ProtocolError):
        HeaderDecoder().decode(b"\xff\xff\xff\xff\xff\xff")
