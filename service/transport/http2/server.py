"""The transport on our own HTTP/2: gRPC's calls (`grpc_framing`, `messages`) over `Connection`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from service.api import retry
from service.api.access.callers import Access
from service.api.calls import DRAINING, OK, Answer, Call, Ended, Services, StreamCall
from service.api.entrance import entered
from service.api.trace import trace_id
from service.transport.http2 import frames as wire
from service.transport.http2 import grpc_framing as framing
from service.transport.http2.budget import Shared
from service.transport.http2.closings import Closings
from service.transport.http2.compression import deflate
from service.transport.http2.connection import Connection
from service.transport.http2.exchange import Exchange
from service.transport.http2.health_and_reflection import SideCall, side_calls
from service.transport.http2.limits import Limits, most_connections
from service.transport.http2.memory import Memory
from service.transport.http2.messages import Body, Messages
from service.transport.http2.stream import Stream
from service.transport.tls import HANDSHAKE_SECONDS, Tls

log = logging.getLogger(__name__)

TIMER_SECONDS = 1e-3  # uvloop rounds to these, and its now is that of its last turn: no call ends before its deadline
NEARLY = 0.1
"""Of a timeout: who cancels in its last tenth was about to see it pass, and can do nothing for it."""


class Http2Server:
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
        self._access = access
        self._max_request_bytes = max_request_bytes
        self._limits = limits
        self._shared = Shared(limits)
        self._max_connections = most_connections(limits.max_connections)
        self._memory = Memory(self._shared.received, self._shared.unsent)
        self._closings = Closings(count_closed)
        self._connections: set[Connection] = set()
        self._stopping = False
        self._all_closed = asyncio.Event()
        self._server: asyncio.Server
        self._looking: asyncio.Task[None] | None = None
        self._handlers: dict[bytes, Call | StreamCall | SideCall] = {**side_calls(health_servicer, services)}
        for service, calls in services.items():
            self._handlers |= {f"/{service}/{name}".encode(): call for name, call in calls.items()}

    async def listen(self, host: str, port: int, tls: Tls | None = None) -> int:
        """Starts to accept calls; returns the port."""
        loop = asyncio.get_running_loop()
        secure: dict[str, Any] = {}
        if tls is not None:  # without the second limit a client that does not close would hold up draining
            limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": self._limits.linger_seconds}
            secure = {"ssl": tls.context, **limits}
        try:
            self._server = await loop.create_server(
                lambda: Connection(self, self._register, self._shared), host, port, backlog=1024, **secure
            )
        except OSError as error:
            raise OSError(f"port: cannot listen on {host}:{port}: {error}") from error
        self._looking = asyncio.create_task(self._look())
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def failed(self) -> None:
        """See `transports.Transport`: nothing ends us but `stop`."""
        await asyncio.Event().wait()

    async def stop(self, grace_seconds: float) -> None:
        """Rejects new calls, waits for those under way, then cancels what is left."""
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
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        """Closes what keeps us waiting for too long, and gives memory back."""
        while True:
            await asyncio.sleep(self._limits.look_seconds)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.look(now)
            self._memory.look()

    def _register(self, connection: Connection, made: bool) -> None:
        if not made:
            self._connections.discard(connection)
            self._closings.closed(connection.reason, connection.peer, connection.why)
            self._all_closed.set()
            return
        if len(self._connections) >= self._max_connections:
            self._make_room(connection)
        self._connections.add(connection)
        if self._stopping:  # its handshake was under way
            asyncio.get_running_loop().call_soon(connection.drain)

    def _make_room(self, newest: Connection) -> None:
        """Closes the connection that has been idle longest, or of the newest if none is."""
        idlest = min(self._connections, key=Connection.last_heard)
        if idlest.last_heard() < math.inf:
            idlest.refuse("too many connections")
        else:
            asyncio.get_running_loop().call_soon(newest.refuse, "too many connections")

    def started(self, stream: Stream) -> None:
        """See `stream.Application`."""
        headers = stream.headers
        if not framing.is_grpc(headers):
            framing.refuse(stream)
            return
        path = headers[b":path"]
        handler: Any = self._handlers.get(path)
        if self._access is not None:
            shown = headers.get(b"authorization", b"").decode("latin-1") or None
            handler = entered(self._access, path.decode("latin-1"), shown, handler)
        if isinstance(handler, Answer):
            framing.end(stream, handler)
            return
        if handler is None:
            unknown = f"unknown method {path.decode(errors='backslashreplace')!r}"
            framing.end(stream, Answer(b"", framing.UNIMPLEMENTED, unknown))
            return
        try:
            left = framing.seconds(headers.get(b"grpc-timeout"))
        except ValueError:
            framing.end(stream, Answer(b"", framing.INTERNAL, f"grpc-timeout: got {headers[b'grpc-timeout']!r}"))
            return
        traced = headers.get(b"traceparent")
        streams = isinstance(handler, (StreamCall, SideCall))
        body = Messages(stream, self._max_request_bytes) if streams else Body(stream, self._max_request_bytes)
        exchange = Exchange(handler, left, trace_id(traced.decode("latin-1")) if traced else "", body)
        stream.context = exchange
        if left < math.inf:
            at = exchange.deadline + TIMER_SECONDS
            exchange.timer = asyncio.get_running_loop().call_at(at, self._expired, stream)
        if isinstance(body, Messages):
            exchange.task = asyncio.create_task(self._stream(stream, exchange, body))

    def oversized(self, stream: Stream, num_bytes: int) -> None:
        """See `stream.Application`."""
        most = self._limits.header_list_bytes
        said = f"headers: got {num_bytes} bytes, expected at most {most}"
        framing.end(stream, Answer(b"", framing.RESOURCE_EXHAUSTED, said, retry.NEVER))

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """See `stream.Application`."""
        exchange = stream.context
        if not isinstance(exchange, Exchange):
            return
        if isinstance(exchange.body, Messages):
            exchange.body.received(data, ended)
            return
        try:
            whole = exchange.body.received(data, ended)
        except Ended as fault:
            self._finish(stream, fault.answer)
            return
        if whole is not None:
            exchange.task = asyncio.create_task(self._unary(stream, exchange, exchange.body, *whole))

    def stalled(self, stream: Stream) -> None:
        """See `stream.Application`."""
        exchange = stream.context
        if not isinstance(exchange, Exchange):
            stream.cancel(wire.NO_ERROR)  # it is answered, and nobody wants the rest
        elif not isinstance(exchange.body, Messages) or exchange.body.in_part:
            limits = self._limits
            said = f"request: got less than {limits.body_bytes} bytes in {limits.body_seconds:g} s, expected all of it"
            self._finish(stream, Answer(b"", framing.DEADLINE_EXCEEDED, said))

    def reset(self, stream: Stream) -> bool:
        """See `stream.Application`."""
        exchange = stream.context
        if not isinstance(exchange, Exchange):
            return not stream.done
        exchange.count_unread(framing.CANCELLED)
        if exchange.task is not None:
            exchange.task.cancel()
        return exchange.deadline - time.monotonic() > NEARLY * exchange.seconds or exchange.seconds == math.inf

    def closed(self, stream: Stream) -> None:
        """See `stream.Application`."""
        exchange = stream.context
        if isinstance(exchange, Exchange):
            stream.context = None  # whatever still comes of it is nobody's
            if exchange.timer is not None:
                exchange.timer.cancel()
            exchange.body.release()

    async def _unary(self, stream: Stream, exchange: Exchange, body: Body, compressed: bool, message: bytes) -> None:
        exchange.begun = True
        if compressed:
            try:
                message = await body.inflated(message)
            except Ended as fault:
                exchange.handler.unread(framing.NAMES[fault.answer.code])
                framing.end(stream, fault.answer)
                return
        answering = exchange.handler.answer(message, exchange.deadline, exchange.trace_id)
        del message  # it is not kept while its rows wait
        answer = await answering
        if answer.code != OK:
            framing.end(stream, answer)
        elif self._compresses(stream, answer.body):
            small = await deflate(answer.body)
            self._send(stream, framing.GZIP_HEAD, framing.framed(small, compressed=True), framing.DONE)
        else:
            self._send(stream, framing.HEAD, framing.framed(answer.body), framing.DONE)

    def _compresses(self, stream: Stream, message: bytes) -> bool:
        if not self._limits.compress_answers or len(message) < self._limits.compress_bytes:
            return False
        return b"gzip" in stream.headers.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")

    def _send(self, stream: Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        if not stream.send(head, data, trailers):
            framing.end(stream, framing.UNREAD.answer)

    async def _stream(self, stream: Stream, exchange: Exchange, messages: Messages) -> None:
        async def write(message: bytes) -> None:
            if not stream.send(b"" if stream.answering else framing.HEAD, framing.framed(message), b""):
                raise framing.UNREAD
            messages.answered()
            await stream.sent()

        try:
            answer = await exchange.handler.serve(messages, write, exchange.deadline)
        except Exception:
            log.exception("%s failed", stream.headers.get(b":path"))
            answer = Answer(b"", framing.UNKNOWN, "internal error")
        if answer.code == OK:
            stream.send(b"" if stream.answering else framing.HEAD, b"", framing.DONE)
        else:
            framing.end(stream, answer)

    def _expired(self, stream: Stream) -> None:
        self._finish(stream, Answer(b"", framing.DEADLINE_EXCEEDED, "the deadline passed"))

    def _finish(self, stream: Stream, answer: Answer) -> None:
        """Answers now, whatever is under way. An answer that waits for room its client does not give is dropped."""
        exchange = stream.context
        if isinstance(exchange, Exchange):
            exchange.count_unread(answer.code)
            if exchange.task is not None:
                exchange.task.cancel()
        if stream.pending:
            stream.cancel(wire.CANCEL)
        else:
            framing.end(stream, answer)
