"""What every transport shares: bytes in, bytes out, and a status. Knows protobuf and the servicer, no network.

A transport finds the call by its name, hands over the request's bytes (of a `StreamCall`: an iterator of them) and the
client's deadline, and sends what it gets back. If the client goes away it cancels the task that waits here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import DecodeError

from latentserve.errors import Code, InvalidInput, LatentserveError, Overloaded, Unauthenticated
from latentserve.v1 import embedding_pb2 as pb
from service.api import retry
from service.api.access.callers import ANYBODY, Caller, rows_of
from service.api.embedding import EmbeddingServicer
from service.api.inference import Context
from service.api.open_inference.servicer import OpenInference
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.api.ordered_stream import Bounds, InOrder, Write
from service.observing.metrics import Metrics

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]
OPEN_SERVICE = open_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OK = 0
LONGEST_MESSAGE = 600
"""Characters of a status's message, each of up to 12 bytes in a header. It may quote what the client sent, and clients
reject long headers: grpcio takes 8 KB, and calls a longer one RESOURCE_EXHAUSTED."""
PROBES = frozenset({"ServerLive", "ServerReady", "ModelReady"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back.

    Attributes:
        body: serialized response; empty unless `code` is OK.
        code: gRPC status code.
        message: for people, empty if OK.
        trailing: more trailing metadata.
    """

    body: bytes
    code: int = OK
    message: str = ""
    trailing: tuple[tuple[str, str], ...] = ()


DRAINING = Answer(b"", Code.UNAVAILABLE, "the server is draining")


@dataclass(frozen=True, slots=True)
class Call:
    """One method of the service: `await call.answer(request_bytes, deadline)`.

    Attributes:
        name: of the method, in metrics too.
        request: class of its message.
        method: answers it.
        metrics: record it.
        counted: whether it is one of the answers that objectives are about; probes are not.
        most_rows: of a request; a larger one is rejected whatever it is.
        caller: whose calls these are.
    """

    name: str
    request: Any
    method: Callable[[Any, Context], Awaitable[Any]]
    metrics: Metrics
    counted: bool = True
    most_rows: int = 1024
    caller: Caller = ANYBODY

    def of(self, caller: Caller) -> Call:
        """The same method for one caller."""
        return replace(self, caller=caller)

    async def answer(self, body: bytes, deadline: float, trace_id: str = "") -> Answer:
        """Answers one request; never raises but for cancellation.

        Args:
            body: serialized request.
            deadline: on `time.monotonic`.
            trace_id: of the client's trace, if it has one.
        """
        try:
            answering = self.respond(self.decoded(body, deadline), deadline, trace_id, len(body))
        except InvalidInput as error:
            return Answer(b"", error.code, str(error))
        del body  # the message holds a copy
        return await answering

    def unread(self, code: str) -> None:
        """Counts a call that ended with this status before its request was whole."""
        self._count("", code, 0.0, math.inf)

    def _count(self, model: str, code: str, seconds: float, deadline: float, trace_id: str = "") -> None:
        if self.counted:
            self.metrics.answered(self.name, model, code, seconds, deadline, trace_id)

    def decoded(self, body: bytes, deadline: float) -> Any:
        """The request.

        Raises:
            InvalidInput: the bytes are none. Such a call is counted here, it gets no further.
        """
        try:
            return self.request.FromString(body)
        except DecodeError as error:
            self._count("", Code.INVALID_ARGUMENT.name, 0.0, deadline)
            got = f"{len(body)} bytes"
            raise InvalidInput.at("request", got=got, expected=f"a {self.request.__name__}") from error

    async def respond(self, request: Any, deadline: float, trace_id: str = "", size_bytes: int = 0) -> Answer:
        """As `answer`, once the request, of so many bytes, is decoded."""
        started = time.monotonic()
        context = Context(self.name, deadline, size_bytes=size_bytes, caller=self.caller)
        code = "OK"
        self.metrics.requests_in_flight.inc()
        try:
            if self.caller is not ANYBODY:
                self.caller.charge(rows_of(request, self.most_rows))
            answering = self.method(request, context)
            del request  # the method lets it go, too, once it has read the rows
            response = await answering
            encoding = time.monotonic()
            encoded = response.SerializeToString()
            self.metrics.encode_seconds.observe(time.monotonic() - encoding)
            return Answer(encoded)
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if time.monotonic() >= deadline else "CANCELLED"
            raise
        except LatentserveError as error:
            code = error.code.name
            return Answer(b"", error.code, str(error), _trailing(error, deadline))
        except Exception:
            code = Code.INTERNAL.name
            fault = uuid.uuid4().hex[:12]
            log.exception("%s failed, id %s", self.name, fault)
            return Answer(b"", Code.INTERNAL, f"internal error, id {fault} in the server's log")
        finally:
            self.metrics.requests_in_flight.dec()
            self._count(context.model, code, time.monotonic() - started, deadline, trace_id)


class Ended(Exception):
    """Ends a stream before its client does, with this status, once what came before is answered."""

    def __init__(self, code: int, message: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.answer = Answer(b"", code, message, trailing)


class StreamCall:
    """A method whose messages are requests of their own, each answered with its own status, in order.

    Args:
        call: answers one message; its request has an `id`, and so has its response.
        response: class of the response, with `code`, `message` and `retry_after_ms`.
        bounds: of what one stream may have under way.
    """

    def __init__(self, call: Call, response: Any, bounds: Bounds = Bounds()) -> None:  # noqa: B008 (frozen)
        self._call = call
        self._response = response
        self._bounds = bounds
        self._open: set[InOrder] = set()
        self._draining = asyncio.Event()

    def of(self, caller: Caller) -> StreamCall:
        """The same method for one caller."""
        bound = copy(self)  # open streams and draining are one's own as the other's
        bound._call = self._call.of(caller)
        return bound

    async def serve(self, messages: AsyncIterator[bytes], write: Write, deadline: float) -> Answer:
        """Answers a stream; returns the status it ends with. What waits here is what the client may cancel.

        Args:
            messages: serialized requests; raises Ended if the stream cannot go on.
            write: sends a serialized response; returns when there is room for another.
            deadline: of all of them, on `time.monotonic`.
        """
        if self._draining.is_set():
            return DRAINING
        stream = InOrder(lambda body: self._begin(body, deadline), write, self._bounds)
        self._open.add(stream)
        self._call.metrics.streams_open.inc()
        try:
            return Answer(b"") if await stream.run(messages) else DRAINING
        except Ended as ended:
            return ended.answer
        finally:
            self._call.metrics.streams_open.dec()
            self._open.discard(stream)

    @property
    def num_open(self) -> int:
        """Streams under way."""
        return len(self._open)

    def drain(self) -> None:
        """Opens no more streams and reads no further from the open ones: they end when what was read is answered."""
        self._draining.set()
        for stream in self._open:
            stream.stop()

    def unread(self, code: str) -> None:
        """See `Call.unread`."""
        self._call.unread(code)

    def _begin(self, body: bytes, deadline: float) -> Coroutine[Any, Any, bytes]:
        try:
            self._call.caller.check()  # a token that was taken away ends the stream
            return self._one(self._call.decoded(body, deadline), deadline, len(body))
        except (InvalidInput, Unauthenticated) as error:
            raise Ended(error.code, str(error)) from error

    async def _one(self, request: Any, deadline: float, size_bytes: int) -> bytes:
        request_id = request.id
        answering = self._call.respond(request, deadline, size_bytes=size_bytes)
        del request
        answer = await answering
        if answer.code == OK:
            return answer.body
        retry_after_ms = int(dict(answer.trailing).get(retry.RETRY_AFTER, 0))
        response = self._response(
            id=request_id, code=answer.code, message=answer.message, retry_after_ms=retry_after_ms
        )
        encoded: bytes = response.SerializeToString()
        return encoded


Calls = dict[str, Call | StreamCall]
Services = dict[str, Calls]
"""The calls of each service, by the service's full name, then by their own."""


def services(ours: EmbeddingServicer, theirs: OpenInference, metrics: Metrics, most_rows: int = 1024) -> Services:
    """Every call of both protocols, made from their descriptors: `GetModel` goes to `ours.get_model`."""

    async def score(message: pb.ScoreStreamRequest, context: Context) -> pb.ScoreStreamResponse:
        message_id, answering = message.id, ours.score(message.request, context)
        del message
        return pb.ScoreStreamResponse(id=message_id, response=await answering)

    scores = Call("ScoreStream", pb.ScoreStreamRequest, score, metrics, most_rows=most_rows)
    return {
        SERVICE.full_name: {
            **_unary(SERVICE, pb, ours, metrics, most_rows),
            "ScoreStream": StreamCall(scores, pb.ScoreStreamResponse),
        },
        OPEN_SERVICE.full_name: _unary(OPEN_SERVICE, open_pb, theirs, metrics, most_rows),
    }


def _unary(service: Any, messages: Any, servicer: Any, metrics: Metrics, most_rows: int) -> Calls:
    return {
        method.name: Call(
            method.name,
            getattr(messages, method.input_type.name),
            getattr(servicer, _snake(method.name)),
            metrics,
            counted=method.name not in PROBES,
            most_rows=most_rows,
        )
        for method in service.methods
        if not method.client_streaming
    }


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def clipped(message: str) -> str:
    """A message that fits into a header."""
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 3] + "..."


def _trailing(error: LatentserveError, deadline: float) -> retry.Metadata:
    if isinstance(error, Overloaded):
        return retry.after(error.retry_after_seconds, deadline - time.monotonic())
    return ()
