"""Health and reflection on our own HTTP/2: answered by grpcio's own servicers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from latentserve.errors import Code
from service.api.calls import OK, Answer, Ended
from service.api.ordered_stream import Write
from service.transport.http2.watchers import Watchers


class SideContext:
    """As much of grpcio's context as health and reflection use.

    Args:
        write: sends a serialized response.
    """

    def __init__(self, write: Write) -> None:
        self._write = write

    async def write(self, response: Any) -> None:
        """Sends a response of a stream."""
        await self._write(response.SerializeToString())

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        """Ends the call."""
        raise Ended(code.value[0], details)


class SideCall:
    """A method of health or reflection, as a stream both ways.

    Args:
        request: its class.
        method: takes an iterator of requests and a context, gives an iterator of responses.
    """

    def __init__(self, request: Any, method: Any) -> None:
        self._request = request
        self._method = method

    async def serve(self, messages: AsyncIterator[bytes], write: Write, deadline: float) -> Answer:
        """See `calls.StreamCall`."""

        async def requests() -> AsyncIterator[Any]:
            async for message in messages:
                try:
                    yield self._request.FromString(message)
                except DecodeError as error:
                    got = f"request: got {len(message)} bytes, expected a {self._request.__name__}"
                    raise Ended(Code.INVALID_ARGUMENT, got) from error

        context = SideContext(write)
        try:
            async with contextlib.aclosing(self._method(requests(), context)) as responses:
                async for response in responses:
                    await context.write(response)
        except Ended as ended:
            return ended.answer
        return Answer(b"", OK)


async def _only(requests: AsyncIterator[Any]) -> Any:
    """The one request of a call that takes one."""
    found = [request async for request in requests]
    if len(found) != 1:
        raise Ended(Code.INTERNAL, f"request: got {len(found)} messages, expected one")
    return found[0]


def side_calls(health_servicer: Any, services: Iterable[str]) -> dict[bytes, SideCall]:
    """By their paths; reflection tells of these services, too."""

    async def check(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        yield await health_servicer.Check(await _only(requests), context)

    async def watch(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async with contextlib.aclosing(watchers.watch(await _only(requests))) as said:
            async for response in said:
                yield response

    watchers = Watchers(health_servicer)

    names = (*services, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflected = reflection.aio.ReflectionServicer(names)
    return {
        b"/grpc.health.v1.Health/Check": SideCall(health_pb2.HealthCheckRequest, check),
        b"/grpc.health.v1.Health/Watch": SideCall(health_pb2.HealthCheckRequest, watch),
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo".encode(): SideCall(
            reflection_pb2.ServerReflectionRequest, reflected.ServerReflectionInfo
        ),
    }
