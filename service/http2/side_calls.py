"""Health and reflection on our own HTTP/2: answered by grpcio's own servicers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.score_stream import Write
from service.transport import OK, Answer, Ended


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
        """See `transport.StreamCall`."""

        async def requests() -> AsyncIterator[Any]:
            async for message in messages:
                yield self._request.FromString(message)

        context = SideContext(write)
        try:
            async for response in self._method(requests(), context):
                await context.write(response)
        except Ended as ended:
            return ended.answer
        return Answer(b"", OK)


def side_calls(health_servicer: Any, services: Iterable[str]) -> dict[bytes, SideCall]:
    """By their paths; reflection tells of these services, too."""

    async def check(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await health_servicer.Check(request, context)

    async def watch(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await health_servicer.Watch(request, context)  # writes by itself, returns when cancelled

    names = (*services, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflected = reflection.aio.ReflectionServicer(names)
    return {
        b"/grpc.health.v1.Health/Check": SideCall(health_pb2.HealthCheckRequest, check),
        b"/grpc.health.v1.Health/Watch": SideCall(health_pb2.HealthCheckRequest, watch),
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo".encode(): SideCall(
            reflection_pb2.ServerReflectionRequest, reflected.ServerReflectionInfo
        ),
    }
