"""Start, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

from grpc_health.v1 import health, health_pb2
from prometheus_client import start_http_server

from service import loop_lag
from service.config import AT_RUN_TIME, Config, ConfigError, available_cpus, changed
from service.grpcio_server import GrpcioServer
from service.http2_server import Http2Server
from service.metrics import Metrics
from service.repository import Repository, Workers, open_repository
from service.servicer import Servicer
from service.transport import SERVICE, Call, StreamCall, calls

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Transport(Protocol):
    """What carries the calls. Made from the calls by name, a health servicer and the bytes a request may have."""

    def __init__(self, calls: dict[str, Call | StreamCall], health_servicer: Any, max_request_bytes: int) -> None: ...

    async def listen(self, host: str, port: int) -> int:
        """Starts to accept calls; returns the port. Raises OSError if it is taken."""

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, waits for those under way, then cancels what is left."""


TRANSPORTS: dict[str, type[Transport]] = {"http2": Http2Server, "grpcio": GrpcioServer}


class Server:
    """A running service.

        async with Server(config) as server:   # every bundle proven and warm, health SERVING
            await server.until_signal()        # SIGTERM or SIGINT
        # drained: every accepted call answered

    Args:
        config: settings to start with.
        read_again: gives the settings anew on SIGHUP; without it there is nothing to read.

    Attributes:
        port: of gRPC, once started.
        metrics_port: of Prometheus, once started.
        repository: the models.
    """

    def __init__(self, config: Config, read_again: Callable[[], Config] | None = None) -> None:
        self.config = config
        self._read_again = read_again
        self.port = 0
        self.metrics_port = 0
        self.repository = Repository()
        self.metrics = Metrics()
        self._transport: Transport
        self._health = health.aio.HealthServicer()
        self._prometheus: Any = None
        self._lanes: list[asyncio.Task[None]] = []
        self._lag: asyncio.Task[None]
        self._stopped = asyncio.Event()
        self._workers = Workers(
            slot=asyncio.Lock(),
            engine=ThreadPoolExecutor(1, "engine"),
            decoding=ThreadPoolExecutor(available_cpus(), "decoding"),
        )

    async def __aenter__(self) -> Self:
        """Raises what `open_repository` raises, and OSError if a port is taken."""
        config = self.config
        loop = asyncio.get_running_loop()
        # In the engine's own thread: loading is slow, and signals must still be heard.
        self.repository = await loop.run_in_executor(
            self._workers.engine, open_repository, config, self.metrics, self._workers
        )
        self._lanes = [
            asyncio.create_task(lane.run(), name=f"{model.manifest.name}/{model.manifest.version}/{name}")
            for model in self.repository.served()
            for name, lane in model.lanes.items()
        ]
        self._lag = asyncio.create_task(loop_lag.watch(self.metrics.event_loop_lag.observe))
        self._prometheus, _ = start_http_server(config.metrics_port, config.host, self.metrics.registry)
        self.metrics_port = self._prometheus.server_port
        self._hear_signals()
        await self._listen()
        self.metrics.ready.set(1)
        self.metrics.config_reload_ok.set(1)
        log.info("ready: gRPC on %s:%d, metrics on %s:%d", config.host, self.port, config.host, self.metrics_port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drains: health says NOT_SERVING, then new calls are refused, accepted calls are answered."""
        self.metrics.ready.set(0)
        await self._health.enter_graceful_shutdown()
        if error is None:
            await self._lame_duck()
        log.info("draining for at most %g s", self.config.drain_seconds)
        await self._transport.stop(self.config.drain_seconds)
        for model in self.repository.served():
            for lane in model.lanes.values():
                lane.drain()
        await asyncio.gather(*self._lanes)
        self._lag.cancel()
        self._workers.engine.shutdown()
        self._workers.decoding.shutdown()
        self._prometheus.shutdown()
        self._prometheus.server_close()
        log.info("drained")

    async def _listen(self) -> None:
        config = self.config
        servicer = Servicer(self.repository, config, self.metrics)
        self._transport = TRANSPORTS[config.transport](
            calls(servicer, self.metrics), self._health, config.max_request_bytes
        )
        self.port = await self._transport.listen(config.host, config.port)
        served = {model.manifest.name for model in self.repository.served()}
        for name in ("", SERVICE.full_name, *served):
            await self._health.set(name, SERVING)
        for refused in self.repository.refused:
            if refused.name not in served:
                await self._health.set(refused.name, NOT_SERVING)

    async def until_signal(self) -> None:
        """Waits for SIGTERM or SIGINT; SIGHUP meanwhile reads the settings again."""
        await self._stopped.wait()
        self._stopped.clear()

    def _hear_signals(self) -> None:
        """Before anybody can know that we listen: a signal that comes at once must drain, too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Takes over what may change at run time; settings that are wrong change nothing."""
        if self._read_again is None:
            return
        try:
            new = self._read_again()
        except (ConfigError, OSError) as error:
            log.error("settings not reloaded: %s", error)
            self.metrics.config_reload_ok.set(0)
            return
        taken, left = changed(self.config, new)
        self.config = self.config.model_copy(update={name: getattr(new, name) for name in taken})
        for model in self.repository.served():
            for lane in model.lanes.values():
                lane.config = self.config.queue
        logging.getLogger().setLevel(self.config.log_level.upper())
        self.metrics.config_reload_ok.set(not left)
        log.info(
            "settings reloaded: %s", {name: getattr(self.config, name) for name in sorted(taken)} or "none changed"
        )
        if left:
            log.error("need a restart: %s; at run time only %s may change", sorted(left), ", ".join(AT_RUN_TIME))

    async def _lame_duck(self) -> None:
        """Serves on while load balancers learn that this server is going; another signal cuts it short."""
        if self.config.lame_duck_seconds:
            log.info("lame duck for %g s", self.config.lame_duck_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self.config.lame_duck_seconds)
