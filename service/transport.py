"""grpcio: carries calls to the servicer, its errors to status codes, and both to the metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from latentserve.errors import Code, LatentserveError, Overloaded
from latentserve.v1 import embedding_pb2 as pb
from service.metrics import Metrics
from service.servicer import Context, Servicer

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


def handlers(servicer: Servicer, metrics: Metrics) -> grpc.GenericRpcHandler:
    """The service's calls, made from its descriptor: `GetModel` goes to `servicer.get_model`."""
    return grpc.method_handlers_generic_handler(
        SERVICE.full_name,
        {
            method.name: grpc.unary_unary_rpc_method_handler(
                _handler(method.name, getattr(servicer, _snake(method.name)), metrics),
                request_deserializer=getattr(pb, method.input_type.name).FromString,
                response_serializer=getattr(pb, method.output_type.name).SerializeToString,
            )
            for method in SERVICE.methods
        },
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _handler(method: str, call: Callable[[Any, Context], Awaitable[Any]], metrics: Metrics) -> Any:
    seconds = metrics.request_seconds.labels(method)

    async def handle(request: Any, grpc_context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started = time.monotonic()
        left = grpc_context.time_remaining()
        context = Context(method) if left is None else Context(method, deadline=started + left)
        code = "OK"
        metrics.requests_in_flight.inc()
        try:
            return await call(request, context)
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if time.monotonic() >= context.deadline else "CANCELLED"
            raise
        except LatentserveError as error:
            code = error.code.name
            await grpc_context.abort(_STATUS[error.code], str(error), _trailing(error))
        except Exception:
            code = Code.INTERNAL.name
            fault = uuid.uuid4().hex[:12]
            log.exception("%s failed, id %s", method, fault)
            await grpc_context.abort(grpc.StatusCode.INTERNAL, f"internal error, id {fault} in the server's log")
        finally:
            metrics.requests_in_flight.dec()
            metrics.requests.labels(method, context.model, code).inc()
            seconds.observe(time.monotonic() - started)

    return handle


def _trailing(error: LatentserveError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Overloaded):
        return (("retry-after-ms", str(max(1, round(error.retry_after_seconds * 1000)))),)
    return ()
