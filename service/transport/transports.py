"""What the server asks of a transport, and the two that there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from service.api.access.callers import Access
from service.api.calls import Services
from service.transport.grpcio import GrpcioServer
from service.transport.http2.limits import Limits
from service.transport.http2.server import Http2Server
from service.transport.tls import Tls


class TransportError(Exception):
    """Calls are no longer taken."""


class Transport(Protocol):
    """What carries the calls.

    Args:
        services: all of them.
        health_servicer: answers grpc.health.v1.
        max_request_bytes: of a request.
        limits: of connections, as many as it keeps.
        count_closed: called with the reason for which a connection ended.
        access: who gets in; None: everybody.
    """

    def __init__(
        self,
        services: Services,
        health_servicer: Any,
        max_request_bytes: int,
        limits: Limits = ...,
        count_closed: Callable[[str], None] = ...,
        access: Access | None = None,
    ) -> None: ...

    async def listen(self, host: str, port: int, tls: Tls | None = None) -> int:
        """Starts to accept calls, in plaintext without `tls`; returns the port. Raises OSError if it is taken."""

    async def failed(self) -> None:
        """Waits until it takes no more calls although nobody stopped it. Raises what ended it."""

    async def stop(self, grace_seconds: float) -> None:
        """Rejects new calls, waits for those under way, then cancels what is left."""


TRANSPORTS: dict[str, type[Transport]] = {"http2": Http2Server, "grpcio": GrpcioServer}
