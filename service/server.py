"""The server: it starts, serves and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from grpc_health.v1.health import aio as health_aio

from service.api.calls import services
from service.api.embedding import EmbeddingServicer
from service.api.inference import Inference
from service.api.model_health import ModelHealth
from service.api.open_inference.servicer import OpenInference
from service.config import Config, available_cpus
from service.models.engines import Workers
from service.models.queues import ModelQueues, notice
from service.models.repository import Repository, scan
from service.observing import loop_lag
from service.observing.instance_metrics import InstanceMetrics
from service.observing.metrics import Metrics
from service.reload import Reload
from service.scheduling.decoding_queue import DecodingQueue
from service.scheduling.instances import Instances, instances_of
from service.transport.addresses import warn_of_openness
from service.transport.metrics_server import MetricsServer, Page
from service.transport.transports import TRANSPORTS, TransportError
from service.transport.transports import Transport as Transport

log = logging.getLogger(__name__)

STUCK_SECONDS = 5.0
"""While the event loop has not come round for so long we are not ready."""


class Server:
    """A running service.

        async with Server(config) as server:   # every bundle verified and warm, health SERVING
            await server.until_signal()        # SIGTERM or SIGINT
        # drained: every accepted call answered

    Args:
        config: settings to start with.
        read_again: returns the settings anew on SIGHUP; None: they stay as they are.

    Attributes:
        port: of gRPC, once started.
        metrics_port: of Prometheus, once started.
        repository: the models.
        has_ended: False if a thread is left that a batch is stuck in.
    """

    def __init__(self, config: Config, read_again: Callable[[], Config] | None = None) -> None:
        self.port = 0
        self.metrics_port = 0
        self.has_ended = True
        self.repository = Repository()
        self.metrics = Metrics()
        self._serving = False
        self._beat = 0.0
        self._transport: Transport
        self._fault: Exception | None = None
        self._page: MetricsServer
        self._watching: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()
        threads = ThreadPoolExecutor(available_cpus() + 1, "decoding")  # one more: see `DecodingQueue`
        decoding = DecodingQueue(threads, config.decoding, decoded=self.metrics.decoded)
        self.metrics.decoding_bytes.set_function(lambda: decoding.size_bytes)
        self.metrics.decoding_pixels.set_function(lambda: decoding.pixels)
        every = instances_of(config.devices, config.instances)
        instances = Instances(every, lambda one: self._queues.prove(one), InstanceMetrics(self.metrics, every))
        self._workers = Workers(instances, decoding)
        self._queues = ModelQueues(self.metrics, instances)
        self._health = health_aio.HealthServicer()
        self._model_health = ModelHealth(
            self._health, self.repository, self._queues, self.metrics, config.stuck_batch_seconds
        )
        self._reload = Reload(
            config, read_again, self.metrics, self._workers, self.repository, self._queues, self._model_health
        )

    @property
    def config(self) -> Config:
        """Settings in force."""
        return self._reload.config

    async def __aenter__(self) -> Self:
        """Raises what `scan` raises, and OSError if a port is taken."""
        config = self.config
        loop = asyncio.get_running_loop()
        self._workers.loop = loop
        # In a thread: loading is slow, and signals must still be heard.
        found = await loop.run_in_executor(
            None, scan, config.models_config, self.metrics, self._workers, self.repository
        )
        self.repository.take(found)
        for model in self.repository.served():
            self._queues.start(model, config.queue)
        self._watch("event loop's lag", loop_lag.watch(self._on_lag))
        self._watching.extend(self._reload.watch())
        self.metrics.ready.set_function(self.is_ready)
        self._show_metrics()
        self._hear_signals()
        await self._listen()
        self._serving, self._beat = True, time.monotonic()
        self._reload.report("settings", True)
        warn_of_openness(config.listen)
        log.info("ready: gRPC on %s:%d, metrics on %s:%d", config.host, self.port, config.host, self.metrics_port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drains: health says NOT_SERVING, then new calls are rejected, accepted calls are answered."""
        self._serving = False
        self._reload.stop()
        await self._health.enter_graceful_shutdown()
        if error is None:
            await self._lame_duck()
        log.info("draining for at most %g s", self.config.drain_seconds)
        await self._transport.stop(self.config.drain_seconds)
        await self._queues.retire_all()
        for task in self._watching:
            task.cancel()
        self.has_ended = self._workers.shutdown()
        self._page.stop()
        log.info("drained")

    def is_ready(self) -> bool:
        """Whether calls are accepted, the event loop gets round to them, and a model can answer.

        May be asked from another thread.
        """
        return self._serving and self._model_health.any_well and time.monotonic() - self._beat < STUCK_SECONDS

    def _on_lag(self, seconds: float) -> None:
        self._beat = time.monotonic()
        self.metrics.event_loop_lag.observe(seconds)

    def _show_metrics(self) -> None:
        config = self.config
        certificates = self._reload.tls if config.metrics_tls else None
        page = Page(self.metrics, self.is_ready, self._reload.access, config.open_health, config.open_metrics)
        self._page = MetricsServer(config.host, config.metrics_port, page, self.metrics, certificates)
        self.metrics_port = self._page.server_port
        self._page.start()

    async def _listen(self) -> None:
        config = self.config
        inference = Inference(self.repository, self.metrics)
        health = self._model_health
        served = services(
            EmbeddingServicer(inference, self.repository, config.max_request_bytes),
            OpenInference(inference, self.repository, self.is_ready, health.well, config.max_request_bytes),
            self.metrics,
            config.max_request_rows,
        )
        self._transport = TRANSPORTS[config.transport](
            served,
            self._health,
            config.max_request_bytes,
            config.transport_limits,
            lambda reason: self.metrics.connections_closed.labels(reason).inc(),
            self._reload.access,
        )
        self.port = await self._transport.listen(config.host, config.port, self._reload.tls)
        self._watch("the transport", self._end_with_transport())
        await health.say()
        self._watch("models' health", health.watch())

    def _watch(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        self._watching.append(notice(asyncio.create_task(work, name=what)))

    async def until_signal(self) -> None:
        """Waits for SIGTERM or SIGINT; SIGHUP meanwhile is a `reload`.

        Raises:
            TransportError: the transport takes no more calls although nobody told it to stop.
        """
        await self._stopped.wait()
        self._stopped.clear()
        if self._fault is not None:
            raise TransportError(f"transport: {self.config.transport} takes no more calls") from self._fault

    async def _end_with_transport(self) -> None:
        """A server that takes no calls must not say that it is ready, nor stay."""
        try:
            await self._transport.failed()
        except Exception as error:
            log.exception("the transport has ended")
            self._serving, self._fault = False, error
            self._stopped.set()

    def _hear_signals(self) -> None:
        """Before anybody can know that we listen: a signal that comes at once must drain, too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Reads settings, models, certificates and tokens again. What is wrong changes nothing."""
        self._reload.everything()

    async def _lame_duck(self) -> None:
        """Serves on while load balancers learn that this server is stopping; another signal cuts it short."""
        if self.config.lame_duck_seconds:
            log.info("lame duck for %g s", self.config.lame_duck_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self.config.lame_duck_seconds)
