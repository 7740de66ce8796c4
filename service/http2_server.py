"""The transport on our own HTTP/2: gRPC's framing, deadlines and statuses over `http2.Connection`.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.frames import literal_headers
from service.http2 import Connection
from service.stream import Stream
from service.transport import OK, SERVICE, Answer, Call

log = logging.getLogger(__name__)

UNKNOWN, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 2, 8, 12, 13
DEADLINE_EXCEEDED, UNAVAILABLE = 4, 14
PREFIX = struct.Struct(">BI")  # compressed?, bytes of the message
TIMER_SECONDS = 1e-3  # uvloop rounds to these: a call must not end before its deadline
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_HEAD = literal_headers(((b":status", b"200"), (b"content-type", b"application/grpc")))
_DONE = literal_headers(((b"grpc-status", b"0"),))
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Exchange:
    """What a stream is to us: what came of the request, and who answers it."""

    __slots__ = ("body", "deadline", "handler", "messages", "task", "timer")

    def __init__(self, handler: Any, deadline: float) -> None:
        self.handler = handler
        self.deadline = deadline
        self.body = bytearray()
        self.messages: asyncio.Queue[bytes | None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class StreamCall:
    """A call of health or reflection: messages in, messages out, through grpcio's own servicers."""

    def __init__(self, request: Any, method: Any) -> None:
        self.request = request
        self.method = method


class Aborted(Exception):
    """What a servicer of grpcio's asks for with `context.abort`."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.answer = Answer(b"", code.value[0], details)


class SideContext:
    """As much of grpcio's context as health and reflection use.

    Args:
        write: sends a response.
    """

    def __init__(self, write: Callable[[Any], None]) -> None:
        self._write = write

    async def write(self, response: Any) -> None:
        """Sends a response of a stream."""
        self._write(response)

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        """Ends the call."""
        raise Aborted(code, details)


class Http2Server:
    """See `server.Transport`."""

    def __init__(self, calls: dict[str, Call], health_servicer: Any, max_request_bytes: int) -> None:
        self._max_request_bytes = max_request_bytes
        self._connections: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._server: asyncio.Server
        self._handlers: dict[bytes, Call | StreamCall] = _side_calls(health_servicer)
        self._handlers |= {f"/{SERVICE.full_name}/{name}".encode(): call for name, call in calls.items()}

    async def listen(self, host: str, port: int) -> int:
        """Starts to accept calls; returns the port."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: Connection(self, self._register), host, port, backlog=1024)
        except OSError as error:
            raise OSError(f"port: cannot listen on {host}:{port}: {error}") from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, waits for those under way, then cancels what is left."""
        self._server.close()
        for connection in list(self._connections):
            for stream in list(connection.streams.values()):
                if isinstance(stream.context, Exchange) and isinstance(stream.context.handler, StreamCall):
                    self._finish(stream, Answer(b"", UNAVAILABLE, "the server is draining"))
            connection.drain()
        try:
            async with asyncio.timeout(grace_seconds):
                while self._connections:
                    self._all_closed.clear()
                    await self._all_closed.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()

    def _register(self, connection: Connection, made: bool) -> None:
        if made:
            self._connections.add(connection)
        else:
            self._connections.discard(connection)
            self._all_closed.set()

    def started(self, stream: Stream) -> None:
        """See `http2.Application`."""
        headers = stream.headers
        handler = self._handlers.get(headers.get(b":path", b""))
        if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            stream.send(b"", b"", literal_headers(((b":status", b"415"),)))
            return
        if handler is None:
            _end(stream, Answer(b"", UNIMPLEMENTED, f"unknown method {headers.get(b':path', b'').decode()!r}"))
            return
        try:
            left = _seconds(headers.get(b"grpc-timeout"))
        except ValueError:
            _end(stream, Answer(b"", INTERNAL, f"grpc-timeout: got {headers[b'grpc-timeout']!r}"))
            return
        exchange = stream.context = Exchange(handler, time.monotonic() + left)
        if left < math.inf:
            exchange.timer = asyncio.get_running_loop().call_later(left + TIMER_SECONDS, self._expired, stream)
        if isinstance(handler, StreamCall):
            exchange.messages = asyncio.Queue()
            exchange.task = asyncio.create_task(self._stream(stream, handler, exchange.messages))

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """See `http2.Application`."""
        exchange = stream.context
        if not isinstance(exchange, Exchange):
            return
        if len(exchange.body) + len(data) > self._max_request_bytes + PREFIX.size:
            got = f"got more than {self._max_request_bytes} bytes, expected at most that many"
            self._finish(stream, Answer(b"", RESOURCE_EXHAUSTED, f"request: {got}"))
            return
        if exchange.messages is not None:
            self._feed(stream, exchange, data, ended)
        elif not ended:
            exchange.body += data
        elif exchange.task is None:
            body = bytes(exchange.body + data) if exchange.body else data
            exchange.task = asyncio.create_task(self._unary(stream, exchange, body))

    def reset(self, stream: Stream) -> None:
        """See `http2.Application`."""
        exchange = stream.context
        if isinstance(exchange, Exchange):
            _release(exchange)

    def _feed(self, stream: Stream, exchange: Exchange, data: bytes, ended: bool) -> None:
        assert exchange.messages is not None
        exchange.body += data
        while len(exchange.body) >= PREFIX.size:
            _, size = PREFIX.unpack_from(exchange.body)
            if len(exchange.body) < PREFIX.size + size:
                break
            exchange.messages.put_nowait(bytes(exchange.body[PREFIX.size : PREFIX.size + size]))
            del exchange.body[: PREFIX.size + size]
        if ended:
            exchange.messages.put_nowait(None)

    async def _unary(self, stream: Stream, exchange: Exchange, body: bytes) -> None:
        fault = _fault(body)
        answer = fault or await exchange.handler.answer(body[PREFIX.size :], exchange.deadline)
        if exchange.timer is not None:
            exchange.timer.cancel()
        if answer.code == OK:
            stream.send(_HEAD, PREFIX.pack(0, len(answer.body)) + answer.body, _DONE)
        else:
            _end(stream, answer)

    async def _stream(self, stream: Stream, call: StreamCall, messages: asyncio.Queue[bytes | None]) -> None:
        async def requests() -> AsyncIterator[Any]:
            while (message := await messages.get()) is not None:
                yield call.request.FromString(message)

        sent = 0

        def write(response: Any) -> None:
            nonlocal sent
            message = response.SerializeToString()
            stream.send(b"" if sent else _HEAD, PREFIX.pack(0, len(message)) + message, b"")
            sent += 1

        try:
            async for response in call.method(requests(), SideContext(write)):
                write(response)
        except Aborted as error:
            _end(stream, error.answer)
        except Exception:
            log.exception("%s failed", stream.headers.get(b":path"))
            _end(stream, Answer(b"", UNKNOWN, "internal error"))
        else:
            stream.send(b"" if sent else _HEAD, b"", _DONE)

    def _expired(self, stream: Stream) -> None:
        self._finish(stream, Answer(b"", DEADLINE_EXCEEDED, "the deadline passed"))

    def _finish(self, stream: Stream, answer: Answer) -> None:
        """Answers now, whatever is under way."""
        if isinstance(stream.context, Exchange):
            _release(stream.context)
        _end(stream, answer)


def _release(exchange: Exchange) -> None:
    if exchange.timer is not None:
        exchange.timer.cancel()
    if exchange.task is not None:
        exchange.task.cancel()


def _end(stream: Stream, answer: Answer) -> None:
    """A response of trailers alone."""
    headers = [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", str(int(answer.code)).encode()),
        (b"grpc-message", quote(answer.message, safe=_PRINTABLE).encode()),
        *((name.encode(), value.encode()) for name, value in answer.trailing),
    ]
    stream.send(b"", b"", literal_headers(tuple(headers)))


def _fault(body: bytes) -> Answer | None:
    """What is wrong with the framing of a unary request's one message."""
    if len(body) < PREFIX.size:
        return Answer(b"", INTERNAL, f"request: got {len(body)} bytes, expected one message")
    compressed, size = PREFIX.unpack_from(body)
    if compressed:
        return Answer(b"", UNIMPLEMENTED, "request: got a compressed message, expected identity")
    if size != len(body) - PREFIX.size:
        return Answer(b"", INTERNAL, f"request: got {len(body) - PREFIX.size} bytes, expected a message of {size}")
    return None


def _seconds(timeout: bytes | None) -> float:
    """grpc-timeout: at most eight digits and a unit."""
    if timeout is None:
        return math.inf
    if not timeout[:-1].isdigit() or len(timeout) > 9 or timeout[-1:] not in UNITS:
        raise ValueError(timeout)
    return int(timeout[:-1]) * UNITS[timeout[-1:]]


def _side_calls(health_servicer: Any) -> dict[bytes, Call | StreamCall]:
    """Health and reflection, answered by grpcio's own servicers."""

    async def check(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await health_servicer.Check(request, context)

    async def watch(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await health_servicer.Watch(request, context)  # writes by itself, returns when cancelled

    names = (SERVICE.full_name, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflected = reflection.aio.ReflectionServicer(names)
    return {
        b"/grpc.health.v1.Health/Check": StreamCall(health_pb2.HealthCheckRequest, check),
        b"/grpc.health.v1.Health/Watch": StreamCall(health_pb2.HealthCheckRequest, watch),
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo".encode(): StreamCall(
            reflection_pb2.ServerReflectionRequest, reflected.ServerReflectionInfo
        ),
    }
