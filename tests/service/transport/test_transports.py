"""What both transports owe a server: they end when told to, whoever watches, and tell when they end by themselves."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.api.calls import SERVICE
from service.transport.transports import TRANSPORTS, Transport
from tests.service.transport.http2_peer import CALL, DATA, HEADERS, PREFACE, SETTINGS, block, head, raw
from tests.service.transport.test_http2 import Echo

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
Body = Callable[[Transport, Any, int], Awaitable[None]]
EITHER = pytest.mark.parametrize("transport", ["http2", "grpcio"])


def serve(transport: str, body: Body) -> None:
    async def run() -> None:
        servicer = health.aio.HealthServicer()
        calls: Any = {"Echo": Echo()}
        server = TRANSPORTS[transport]({SERVICE.full_name: calls} if transport == "http2" else {}, servicer, 2**22)
        port = await server.listen("127.0.0.1", 0)
        await servicer.set("", SERVING)
        try:
            await body(server, servicer, port)
        finally:
            await server.stop(0)

    asyncio.run(asyncio.wait_for(run(), 30))


async def quickly(waited_for: Awaitable[None]) -> None:
    started = time.monotonic()
    await waited_for
    assert time.monotonic() - started < 10  # of the 20 s of grace


@EITHER
def test_who_watches_or_reflects_does_not_hold_the_drain(transport: str) -> None:
    async def body(server: Transport, servicer: Any, port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await reflected.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await reflected.read()
            await quickly(server.stop(20))
            assert await watch.code() == await reflected.code() == grpc.StatusCode.UNAVAILABLE
            assert await watch.details() == "the server is draining"

    serve(transport, body)


@EITHER
def test_one_watcher_that_leaves_or_does_not_read_keeps_nothing_from_the_others(transport: str) -> None:
    async def body(server: Transport, servicer: Any, port: int) -> None:
        deaf = socket.create_connection(("127.0.0.1", port))
        fields = [(name, "/grpc.health.v1.Health/Watch" if name == ":path" else value) for name, value in CALL]
        no_room = raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
        deaf.sendall(PREFACE + no_room + head(1, fields=fields) + raw(DATA, 1, 1, bytes(5)))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            leaves, stays = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
            assert (await leaves.read()).status == (await stays.read()).status == SERVING
            leaves.cancel()
            await asyncio.sleep(0.1)
            await asyncio.wait_for(servicer.set("", NOT_SERVING), 2)
            assert (await asyncio.wait_for(stays.read(), 2)).status == NOT_SERVING
            await asyncio.wait_for(servicer.enter_graceful_shutdown(), 2)
        deaf.close()

    serve(transport, body)


@EITHER
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("grpc.health.v1.Health/Check", b"\0\0\0\0\3\xff\xff\xff", "INVALID_ARGUMENT"),
        ("grpc.health.v1.Health/Check", b"", "INTERNAL"),
        ("grpc.health.v1.Health/Check", 2 * bytes(5), "INTERNAL"),
        ("grpc.health.v1.Health/Watch", b"", "INTERNAL"),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"\0\0\0\0\1\xff", "INVALID_ARGUMENT"),
    ],
)
def test_odd_requests_to_health_and_reflection_have_their_status(
    transport: str, path: str, body: bytes, status: str
) -> None:
    async def asked(server: Transport, servicer: Any, port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            messages = []
            while body[sum(5 + len(message) for message in messages) :]:
                at = sum(5 + len(message) for message in messages)
                messages.append(body[at + 5 : at + 5 + int.from_bytes(body[at + 1 : at + 5])])
            call = channel.stream_stream(f"/{path}")(iter(messages))
            assert (await call.code()).name == status

    serve(transport, asked)


def test_grpcio_tells_that_its_loop_has_ended() -> None:
    """A path that is not UTF-8 does it. Our own transport answers UNIMPLEMENTED."""

    async def body(server: Transport, servicer: Any, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as peer:
            post = block([(":method", "POST"), (":scheme", "http"), (":authority", "x")]) + b"\x04\x02/\xff"
            rest = block([("content-type", "application/grpc"), ("te", "trailers")])
            peer.sendall(PREFACE + raw(SETTINGS, 0, 0) + raw(HEADERS, 5, 1, post + rest))
            with pytest.raises(RuntimeError, match="has ended"):
                await asyncio.wait_for(server.failed(), 10)

    serve("grpcio", body)
