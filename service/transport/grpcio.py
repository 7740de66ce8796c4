"""The transport on grpcio's asyncio server.

A request whose path is not UTF-8 ends the loop in which that server takes calls (`_server_main_loop`, in Cython: it
cannot be caught there, nor the loop be started again). `failed` tells, and the process ends: whoever restarts it sees
why.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from service.api.access.callers import Access
from service.api.calls import DRAINING, OK, Answer, Call, Services, StreamCall, clipped
from service.api.entrance import entered
from service.api.trace import trace_id
from service.transport.http2.health_and_reflection import SideCall, side_calls
from service.transport.http2.limits import Limits
from service.transport.tls import Tls

LOOK_SECONDS = 1.0
"""How long we may say that we are ready when we are not."""
STREAM_LOOK_SECONDS = 0.02
"""How often a server that stops looks whether its streams have ended."""
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class Entrance(grpc.aio.ServerInterceptor):
    """Stands before every method, health and reflection too: runs at the headers.

    Args:
        access: the tokens.
        calls: ours, by their paths.
    """

    def __init__(self, access: Access, calls: dict[str, Call | StreamCall]) -> None:
        self._access = access
        self._calls = calls

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        path, call = str(details.method), self._calls.get(str(details.method))
        shown = [str(value) for name, value in details.invocation_metadata or () if name == "authorization"]
        answering = entered(self._access, path, shown[-1] if shown else None, call)
        if isinstance(answering, Answer):
            return _refusal(answering)
        return await continuation(details) if call is None else _handler(answering)


class GrpcioServer:
    """See `transports.Transport`."""

    def __init__(
        self,
        services: Services,
        health_servicer: Any,
        max_request_bytes: int,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        count_closed: Callable[[str], None] = lambda _: None,
        access: Access | None = None,
    ) -> None:
        """Of the limits it keeps the keep-alive's; it does not tell why a connection ended."""
        paths = {f"/{service}/{name}": call for service, calls in services.items() for name, call in calls.items()}
        self._server = grpc.aio.server(
            interceptors=() if access is None else (Entrance(access, paths),),
            options=(
                ("grpc.keepalive_time_ms", round(limits.keepalive_seconds * 1000)),
                ("grpc.keepalive_timeout_ms", round(limits.keepalive_timeout_seconds * 1000)),
                # its own limit ends an idle connection at the third ping, ten seconds apart as clients may send them
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a coin toss
            ),
        )
        self._linger_seconds = limits.linger_seconds
        self._streams = [call for call in paths.values() if isinstance(call, StreamCall)]
        self._beside: set[asyncio.Task[Answer]] = set()
        self._stopping = self._ended = False
        for service, calls in services.items():
            methods = {name: _handler(call) for name, call in calls.items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        for path, side_call in side_calls(health_servicer, services).items():
            service, name = path.decode()[1:].split("/")
            methods = {name: grpc.stream_stream_rpc_method_handler(self._side(side_call))}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))

    async def listen(self, host: str, port: int, tls: Tls | None = None) -> int:
        """Starts to accept calls; returns the port."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise OSError(f"port: cannot listen on {host}:{port}: {error}") from error
        await self._server.start()
        return bound

    async def failed(self) -> None:
        """See `transports.Transport`. By looks: who waits for its end beside `stop` keeps `stop` from ending."""
        server: Any = self._server
        while self._stopping or server._server.is_running():
            await asyncio.sleep(LOOK_SECONDS)
        self._ended = True
        raise RuntimeError("the loop in which grpcio takes calls has ended, as it does after a path that is not UTF-8")

    async def stop(self, grace_seconds: float) -> None:
        """Rejects new calls, waits for those under way, then cancels what is left."""
        until = time.monotonic() + grace_seconds
        self._stopping = True
        for task in self._beside:
            task.cancel()
        await self._end_streams(grace_seconds)
        if not self._ended:
            await self._server.stop(max(0.0, until - time.monotonic()))

    async def _end_streams(self, grace_seconds: float) -> None:
        """Leaves the clients of streams the time to read how theirs ended.

        They write on until they have, and grpcio closes the socket after the last stream: a client that writes then
        knows of a broken pipe alone.
        """
        for call in self._streams:
            call.drain()
        if not any(call.num_open for call in self._streams):
            return
        until = time.monotonic() + grace_seconds - self._linger_seconds
        while any(call.num_open for call in self._streams) and time.monotonic() < until:
            await asyncio.sleep(STREAM_LOOK_SECONDS)
        await asyncio.sleep(min(grace_seconds, self._linger_seconds))

    def _side(self, call: SideCall) -> Any:
        """Such a call may last for ever: draining does not wait for it."""

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
            task = asyncio.ensure_future(call.serve(messages, context.write, _deadline(context)))
            self._beside.add(task)
            try:
                answer = await task
            except asyncio.CancelledError:
                if not self._stopping:  # by the client
                    task.cancel()
                    raise
                answer = DRAINING
            finally:
                self._beside.discard(task)
            await _check(answer, context)

        return handle


def _handler(call: Call | StreamCall) -> Any:
    """No (de)serializers: bytes in, bytes out."""
    if isinstance(call, StreamCall):
        return grpc.stream_stream_rpc_method_handler(_stream(call))
    return grpc.unary_unary_rpc_method_handler(_unary(call))


def _refusal(answer: Answer) -> Any:
    """Ends a call of whatever kind without reading of it: as a stream no message is waited for."""

    async def handle(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await _check(answer, context)

    return grpc.stream_stream_rpc_method_handler(handle)


def _unary(call: Call) -> Any:
    async def handle(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        answer = await call.answer(body, _deadline(context), _trace_id(context))
        await _check(answer, context)
        return answer.body

    return handle


def _stream(call: StreamCall) -> Any:
    async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await _check(await call.serve(messages, context.write, _deadline(context)), context)

    return handle


def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    left = context.time_remaining()
    return math.inf if left is None else time.monotonic() + left


def _trace_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent":
            return trace_id(str(value))
    return ""


async def _check(answer: Answer, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Ends the call here if the answer is no good one."""
    if answer.code != OK:
        await context.abort(_STATUS[answer.code], clipped(answer.message), answer.trailing)
