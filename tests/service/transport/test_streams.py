"""ScoreStream on both transports, asked by grpcio's own client; what answers a message is a fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health

from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1.embedding_pb2_grpc import EmbeddingServiceStub
from service.api.calls import SERVICE, Call, StreamCall
from service.api.ordered_stream import Bounds
from service.observing.metrics import Metrics
from service.server import TRANSPORTS, Transport
from tests.fakes import FakeScores

LIMIT = 4
MAX_REQUEST_BYTES = 200_000
LARGE = "x" * 100_000


@dataclass
class Served:
    """A server, what answers for it, and a client."""

    server: Transport
    scores: FakeScores
    metrics: Metrics
    target: str
    stub: Any

    def counted(self, code: str) -> float:
        labels = {"method": "ScoreStream", "model": "", "code": code}
        return self.metrics.registry.get_sample_value("latentserve_requests_total", labels) or 0.0

    def open_streams(self) -> float | None:
        return self.metrics.registry.get_sample_value("latentserve_streams_open")

    async def begun(self, count: int) -> None:
        """Waits until so many messages are."""
        while len(self.scores.begun) < count:
            await asyncio.sleep(0.01)


Body = Callable[[Served], Awaitable[None]]


@pytest.fixture(params=["http2", "grpcio"])
def serve(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    """Runs a test against a server of each kind."""

    async def run(body: Body) -> None:
        scores, metrics = FakeScores(), Metrics()
        call = Call("ScoreStream", pb.ScoreStreamRequest, scores.score, metrics)
        calls: Any = {"ScoreStream": StreamCall(call, pb.ScoreStreamResponse, Bounds(max_requests=LIMIT))}
        server = TRANSPORTS[request.param]({SERVICE.full_name: calls}, health.aio.HealthServicer(), MAX_REQUEST_BYTES)
        target = f"127.0.0.1:{await server.listen('127.0.0.1', 0)}"
        async with grpc.aio.insecure_channel(target) as channel, asyncio.timeout(20):
            try:
                await body(Served(server, scores, metrics, target, EmbeddingServiceStub(channel)))
            finally:
                scores.open.set()
                await server.stop(1)
        assert metrics.registry.get_sample_value("latentserve_streams_open") == 0
        assert metrics.registry.get_sample_value("latentserve_requests_in_flight") == 0

    return lambda body: asyncio.run(run(body))


def message(number: int, name: str = "") -> pb.ScoreStreamRequest:
    return pb.ScoreStreamRequest(id=number, request=pb.ScoreRequest(model=pb.ModelSelector(name=name)))


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()


def test_each_message_has_a_status_of_its_own_and_the_order_is_kept(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        served.scores.open.set()
        names = ["good", "nobody", "full", "bug", "", "good"] * 5
        call = served.stub.ScoreStream(message(100 + number, name) for number, name in enumerate(names))
        answers = [answer async for answer in call]
        assert [answer.id for answer in answers] == [100 + number for number in range(30)]
        assert [answer.code for answer in answers] == [0, 5, 8, 13, 0, 0] * 5
        assert [answer.HasField("response") for answer in answers] == [code == 0 for code in [0, 5, 8, 13, 0, 0] * 5]
        assert [answer.response.model.name for answer in answers[:2]] == ["good", ""]
        assert [answer.message for answer in answers[:3]] == ["", "no such model", "queue is full"]
        assert "internal error, id" in answers[3].message
        assert [answer.retry_after_ms for answer in answers[:4]] == [0, 0, 250, 0]
        assert await status(call) == (grpc.StatusCode.OK, "")
        counts = {code: served.counted(code) for code in ("OK", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL")}
        assert counts == {"OK": 15, "NOT_FOUND": 5, "RESOURCE_EXHAUSTED": 5, "INTERNAL": 5}

    serve(body)


def test_a_stream_without_a_message_is_fine(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        call = served.stub.ScoreStream(iter(()))
        assert [answer async for answer in call] == []
        assert (await call.code()) == grpc.StatusCode.OK

    serve(body)


def test_several_messages_are_under_way_and_no_more_than_the_bound(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        call = served.stub.ScoreStream(message(number) for number in range(20))
        await served.begun(LIMIT)
        await asyncio.sleep(0.2)
        assert served.scores.begun == list(range(LIMIT))
        assert served.open_streams() == 1
        served.scores.open.set()
        assert [answer.id async for answer in call] == list(range(20))

    serve(body)


def test_a_client_that_takes_no_answers_is_not_read_from_and_starves_no_other(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        served.scores.open.set()
        call, written = served.stub.ScoreStream(), 0

        async def write() -> None:
            nonlocal written
            for number in range(1000):
                await call.write(message(number, LARGE))
                written += 1

        writing = asyncio.create_task(write())
        before = -1
        while before < written:
            before = written
            await asyncio.sleep(0.5)
        # 4 under way; the rest lies in the windows of both directions and in the client, 1 MiB each and some.
        assert len(served.scores.begun) < 80
        assert written < 300
        other = served.stub.ScoreStream(message(number, LARGE) for number in range(100))
        assert [answer.id async for answer in other] == list(range(100))
        writing.cancel()
        call.cancel()

    serve(body)


def test_a_client_that_cancels_cancels_all_that_is_under_way(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        call = served.stub.ScoreStream(message(number) for number in range(20))
        await served.begun(LIMIT)
        call.cancel()
        while len(served.scores.cancelled) < LIMIT or served.open_streams():
            await asyncio.sleep(0.01)
        assert served.scores.begun == served.scores.cancelled == list(range(LIMIT))
        assert served.counted("CANCELLED") == LIMIT

    serve(body)


def test_a_client_that_disconnects_cancels_all_that_is_under_way(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        async with grpc.aio.insecure_channel(served.target) as channel:
            stub: Any = EmbeddingServiceStub(channel)
            stub.ScoreStream(message(number) for number in range(20))
            await served.begun(LIMIT)
        while len(served.scores.cancelled) < LIMIT:
            await asyncio.sleep(0.01)

    serve(body)


def test_the_deadline_of_the_call_is_that_of_every_message(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        call = served.stub.ScoreStream((message(number) for number in range(20)), timeout=0.5)
        with pytest.raises(grpc.aio.AioRpcError):
            assert [answer async for answer in call] == []
        assert (await call.code()) == grpc.StatusCode.DEADLINE_EXCEEDED
        while len(served.scores.cancelled) < LIMIT:
            await asyncio.sleep(0.01)
        (deadline,) = served.scores.deadlines
        assert abs(deadline - time.monotonic()) < 5
        # The client's clock may be the first to strike; it cancels then.
        assert served.counted("DEADLINE_EXCEEDED") + served.counted("CANCELLED") == LIMIT

    serve(body)


@pytest.mark.parametrize("waiting", [LIMIT, 1])
def test_draining_answers_what_was_read_and_says_that_the_server_goes(
    serve: Callable[[Body], None], waiting: int
) -> None:
    """With four messages the server waits for room, with one for the next message."""

    async def body(served: Served) -> None:
        call = served.stub.ScoreStream()
        for number in range(waiting):
            await call.write(message(number))
        await served.begun(waiting)
        stopping = asyncio.create_task(served.server.stop(10))
        await asyncio.sleep(0.1)
        await call.write(message(99))
        await asyncio.sleep(0.1)
        served.scores.open.set()
        assert [(await call.read()).id for _ in range(waiting)] == list(range(waiting))
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")
        assert served.scores.begun == list(range(waiting))
        await asyncio.wait_for(stopping, 2)

    serve(body)


def test_a_stream_that_comes_while_draining_is_refused() -> None:
    async def run() -> None:
        async def nothing(answer: bytes) -> None:
            raise AssertionError(answer)

        async def endless() -> Any:
            await asyncio.Event().wait()
            yield b""

        call = StreamCall(Call("ScoreStream", pb.ScoreStreamRequest, FakeScores().score, Metrics()), None)
        call.drain()
        answer = await asyncio.wait_for(call.serve(endless(), nothing, 0.0), 1)
        assert (answer.code, answer.message) == (14, "the server is draining")

    asyncio.run(run())


def test_a_message_over_the_limit_ends_the_stream(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        served.scores.open.set()
        call = served.stub.ScoreStream()
        await call.write(message(0, LARGE))
        assert (await call.read()).id == 0
        await call.write(message(1, 3 * LARGE))
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert (await call.code()) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert served.scores.begun == [0]

    serve(body)


def test_bytes_that_are_no_request_end_the_stream_when_all_before_is_answered(serve: Callable[[Body], None]) -> None:
    async def body(served: Served) -> None:
        async with grpc.aio.insecure_channel(served.target) as channel:
            call = channel.stream_stream("/latentserve.v1.EmbeddingService/ScoreStream")(
                iter([message(7).SerializeToString(), b"\xff\xff"])
            )
            await served.begun(1)
            served.scores.open.set()
            assert pb.ScoreStreamResponse.FromString(await call.read()).id == 7
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            expected = "request: got 2 bytes, expected a ScoreStreamRequest"
            assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, expected)
        assert served.scores.begun == [7]
        assert served.counted("INVALID_ARGUMENT") == 1

    serve(body)
