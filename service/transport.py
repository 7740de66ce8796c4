"""What every transport shares: bytes in, bytes out, and a status. Knows protobuf and the servicer, no network.

A transport finds the call by its name, hands over the request's bytes and the caller's deadline, and sends what it gets
back. If the caller goes away it cancels the task that waits here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from latentserve.errors import Code, LatentserveError, Overloaded
from latentserve.v1 import embedding_pb2 as pb
from service.metrics import Metrics
from service.servicer import Context, Servicer

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]
OK = 0


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


@dataclass(frozen=True, slots=True)
class Call:
    """One method of the service: `await call.answer(request_bytes, deadline)`."""

    name: str
    request: Any
    method: Callable[[Any, Context], Awaitable[Any]]
    metrics: Metrics

    async def answer(self, body: bytes, deadline: float) -> Answer:
        """Answers one request; never raises but for cancellation.

        Args:
            body: serialized request.
            deadline: on `time.monotonic`.
        """
        started = time.monotonic()
        context = Context(self.name, deadline)
        code = "OK"
        self.metrics.requests_in_flight.inc()
        try:
            response = await self.method(self.request.FromString(body), context)
            encoding = time.monotonic()
            encoded = response.SerializeToString()
            self.metrics.encode_seconds.observe(time.monotonic() - encoding)
            return Answer(encoded)
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if time.monotonic() >= deadline else "CANCELLED"
            raise
        except LatentserveError as error:
            code = error.code.name
            return Answer(b"", error.code, str(error), _trailing(error))
        except DecodeError:
            code = Code.INVALID_ARGUMENT.name
            return Answer(
                b"", Code.INVALID_ARGUMENT, f"request: got {len(body)} bytes, expected a {self.request.__name__}"
            )
        except Exception:
            code = Code.INTERNAL.name
            fault = uuid.uuid4().hex[:12]
            log.exception("%s failed, id %s", self.name, fault)
            return Answer(b"", Code.INTERNAL, f"internal error, id {fault} in the server's log")
        finally:
            self.metrics.requests_in_flight.dec()
            self.metrics.answered(self.name, context.model, code, time.monotonic() - started, deadline)


def calls(servicer: Servicer, metrics: Metrics) -> dict[str, Call]:
    """Every call by its name, made from the service's descriptor: `GetModel` goes to `servicer.get_model`."""
    return {
        method.name: Call(
            method.name, getattr(pb, method.input_type.name), getattr(servicer, _snake(method.name)), metrics
        )
        for method in SERVICE.methods
        if not method.client_streaming
    }


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _trailing(error: LatentserveError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Overloaded):
        return (("retry-after-ms", str(max(1, round(error.retry_after_seconds * 1000)))),)
    return ()
