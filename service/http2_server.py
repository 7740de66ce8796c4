"""The transport on our own HTTP/2: gRPC's calls (`grpc_framing`) over `http2.Connection`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

from service import grpc_framing as framing
from service.access import Access
from service.entrance import entered
from service.grpc_framing import PREFIX, Messages
from service.http2 import LINGER_SECONDS, Connection
from service.side_calls import SideCall, side_calls
from service.stream import Stream
from service.tls import HANDSHAKE_SECONDS, Tls
from service.transport import DRAINING, OK, Answer, Call, Services, StreamCall, trace_id

log = logging.getLogger(__name__)

TIMER_SECONDS = 1e-3  # uvloop rounds to these: a call must not end before its deadline


class Exchange:
    """What a stream is to us: what came of the request, and who answers it."""

    __slots__ = ("body", "deadline", "handler", "messages", "task", "timer", "trace_id")

    def __init__(self, handler: Any, deadline: float, trace_id: str) -> None:
        self.handler = handler
        self.deadline = deadline
        self.trace_id = trace_id
        self.body = bytearray()
        self.messages: Messages | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Http2Server:
    """See `server.Transport`."""

    def __init__(
        self, services: Services, health_servicer: Any, max_request_bytes: int, access: Access | None = None
    ) -> None:
        self._access = access
        self._max_request_bytes = max_request_bytes
        self._connections: set[Connection] = set()
        self._stopping = False
        self._all_closed = asyncio.Event()
        self._server: asyncio.Server
        self._handlers: dict[bytes, Call | StreamCall | SideCall] = {**side_calls(health_servicer, services)}
        for service, calls in services.items():
            self._handlers |= {f"/{service}/{name}".encode(): call for name, call in calls.items()}

    async def listen(self, host: str, port: int, tls: Tls | None = None) -> int:
        """Starts to accept calls; returns the port."""
        loop = asyncio.get_running_loop()
        secure: dict[str, Any] = {}
        if tls is not None:  # without the second limit a client that does not close would hold up draining
            limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": LINGER_SECONDS}
            secure = {"ssl": tls.context, **limits}
        try:
            self._server = await loop.create_server(
                lambda: Connection(self, self._register), host, port, backlog=1024, **secure
            )
        except OSError as error:
            raise OSError(f"port: cannot listen on {host}:{port}: {error}") from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, waits for those under way, then cancels what is left."""
        self._stopping = True
        self._server.close()
        for handler in self._handlers.values():
            if isinstance(handler, StreamCall):
                handler.drain()
        for connection in list(self._connections):
            for stream in list(connection.streams.values()):
                if isinstance(stream.context, Exchange) and isinstance(stream.context.handler, SideCall):
                    self._finish(stream, DRAINING)
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
            if self._stopping:  # its handshake was under way
                asyncio.get_running_loop().call_soon(connection.drain)
        else:
            self._connections.discard(connection)
            self._all_closed.set()

    def started(self, stream: Stream) -> None:
        """See `http2.Application`."""
        headers = stream.headers
        handler = self._handlers.get(headers.get(b":path", b""))
        if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            stream.send(b"", b"", framing.NOT_GRPC)
            return
        handler = self._entered(headers, handler)
        if isinstance(handler, Answer):
            framing.end(stream, handler)
            return
        if handler is None:
            unknown = f"unknown method {headers.get(b':path', b'').decode()!r}"
            framing.end(stream, Answer(b"", framing.UNIMPLEMENTED, unknown))
            return
        try:
            left = framing.seconds(headers.get(b"grpc-timeout"))
        except ValueError:
            framing.end(stream, Answer(b"", framing.INTERNAL, f"grpc-timeout: got {headers[b'grpc-timeout']!r}"))
            return
        traced = headers.get(b"traceparent")
        exchange = Exchange(handler, time.monotonic() + left, trace_id(traced.decode("latin-1")) if traced else "")
        stream.context = exchange
        if left < math.inf:
            exchange.timer = asyncio.get_running_loop().call_later(left + TIMER_SECONDS, self._expired, stream)
        if isinstance(handler, (StreamCall, SideCall)):
            exchange.messages = Messages(stream, self._max_request_bytes)
            exchange.task = asyncio.create_task(self._stream(stream, exchange, exchange.messages))

    def _entered(self, headers: dict[bytes, bytes], handler: Any) -> Any:
        """See `entrance.entered`."""
        shown = headers.get(b"authorization")
        path = headers.get(b":path", b"").decode("latin-1")
        return entered(self._access, path, None if shown is None else shown.decode("latin-1"), handler)

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """See `http2.Application`."""
        exchange = stream.context
        if not isinstance(exchange, Exchange):
            return
        if exchange.messages is not None:
            exchange.messages.received(data, ended)
        elif len(exchange.body) + len(data) > self._max_request_bytes + PREFIX.size:
            self._finish(stream, Answer(b"", *framing.too_large(self._max_request_bytes)))
        elif not ended:
            exchange.body += data
        elif exchange.task is None:
            body = bytes(exchange.body + data) if exchange.body else data
            exchange.task = asyncio.create_task(self._unary(stream, exchange, body))

    def reset(self, stream: Stream) -> None:
        """See `http2.Application`."""
        exchange = stream.context
        if isinstance(exchange, Exchange):
            _count_unread(exchange, framing.CANCELLED)
            _release(exchange)

    async def _unary(self, stream: Stream, exchange: Exchange, body: bytes) -> None:
        answer = framing.fault(body)
        if answer is None:
            answer = await exchange.handler.answer(body[PREFIX.size :], exchange.deadline, exchange.trace_id)
        else:
            exchange.handler.unread(framing.NAMES[answer.code])
        if exchange.timer is not None:
            exchange.timer.cancel()
        if answer.code == OK:
            stream.send(framing.HEAD, framing.framed(answer.body), framing.DONE)
        else:
            framing.end(stream, answer)

    async def _stream(self, stream: Stream, exchange: Exchange, messages: Messages) -> None:
        async def write(message: bytes) -> None:
            stream.send(b"" if stream.answering else framing.HEAD, framing.framed(message), b"")
            await stream.sent()

        try:
            answer = await exchange.handler.serve(messages, write, exchange.deadline)
        except Exception:
            log.exception("%s failed", stream.headers.get(b":path"))
            answer = Answer(b"", framing.UNKNOWN, "internal error")
        if exchange.timer is not None:
            exchange.timer.cancel()
        if answer.code == OK:
            stream.send(b"" if stream.answering else framing.HEAD, b"", framing.DONE)
        else:
            framing.end(stream, answer)

    def _expired(self, stream: Stream) -> None:
        self._finish(stream, Answer(b"", framing.DEADLINE_EXCEEDED, "the deadline passed"))

    def _finish(self, stream: Stream, answer: Answer) -> None:
        """Answers now, whatever is under way."""
        if isinstance(stream.context, Exchange):
            _count_unread(stream.context, answer.code)
            _release(stream.context)
            stream.context = None  # whatever still comes of it is nobody's
        framing.end(stream, answer)


def _count_unread(exchange: Exchange, code: int) -> None:
    """A call whose request never was whole is an answer all the same: the metrics have every one."""
    if exchange.messages is None and exchange.task is None:
        exchange.handler.unread(framing.NAMES[code])


def _release(exchange: Exchange) -> None:
    if exchange.timer is not None:
        exchange.timer.cancel()
    if exchange.task is not None:
        exchange.task.cancel()
