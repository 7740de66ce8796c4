"""Start, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from service.config import Config, available_cpus
from service.metrics import Metrics
from service.repository import Repository, Workers, open_repository
from service.servicer import Servicer
from service.transport import SERVICE, handlers

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING


class Server:
    """A running service.

        async with Server(config) as server:   # every bundle proven and warm, health SERVING
            await server.until_signal()        # SIGTERM or SIGINT
        # drained: every accepted call answered

    Attributes:
        port: of gRPC, once started.
        metrics_port: of Prometheus, once started.
        repository: the models.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        self.metrics_port = 0
        self.repository = Repository()
        self.metrics = Metrics()
        self._grpc: grpc.aio.Server
        self._health = health.aio.HealthServicer()
        self._prometheus: Any = None
        self._lanes: list[asyncio.Task[None]] = []
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
        self._prometheus, _ = start_http_server(config.metrics_port, config.host, self.metrics.registry)
        self.metrics_port = self._prometheus.server_port
        await self._listen()
        self.metrics.ready.set(1)
        log.info("ready: gRPC on %s:%d, metrics on %s:%d", config.host, self.port, config.host, self.metrics_port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drains: health says NOT_SERVING, new calls are refused, accepted calls are answered."""
        log.info("draining for at most %g s", self.config.drain_seconds)
        self.metrics.ready.set(0)
        await self._health.enter_graceful_shutdown()
        await self._grpc.stop(self.config.drain_seconds)
        for model in self.repository.served():
            for lane in model.lanes.values():
                lane.drain()
        await asyncio.gather(*self._lanes)
        self._workers.engine.shutdown()
        self._workers.decoding.shutdown()
        self._prometheus.shutdown()
        self._prometheus.server_close()
        log.info("drained")

    async def _listen(self) -> None:
        config = self.config
        self._grpc = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a coin toss
            )
        )
        servicer = Servicer(self.repository, config, self.metrics)
        self._grpc.add_generic_rpc_handlers((handlers(servicer, self.metrics),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        try:
            self.port = self._grpc.add_insecure_port(f"{config.host}:{config.port}")
        except RuntimeError as error:
            raise OSError(f"port: cannot listen on {config.host}:{config.port}: {error}") from error
        await self._grpc.start()
        for name in ("", SERVICE.full_name):
            await self._health.set(name, SERVING)

    async def until_signal(self) -> None:
        """Waits for SIGTERM or SIGINT."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
