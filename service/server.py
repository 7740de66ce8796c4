"""Start, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

from grpc_health.v1.health import aio as health_aio

from latentserve.devices import CPU
from latentserve.errors import BundleError
from service.api.calls import services
from service.api.embedding import Servicer
from service.api.inference import Inference
from service.api.model_health import ModelHealth
from service.api.open_inference.servicer import OpenInference
from service.config import AT_RUN_TIME, Config, ConfigError, available_cpus, changed
from service.engine.providers import DeviceError
from service.models.queues import Running, RunningModels, notice
from service.models.repository import Repository, Workers, look, open_repository
from service.observing import loop_lag
from service.observing.metrics import Metrics
from service.reload import Renewal
from service.scheduling.decoding_queue import Turns
from service.transport.addresses import warn_of_openness
from service.transport.metrics_server import MetricsServer, Page
from service.transport.transports import TRANSPORTS, TransportError
from service.transport.transports import Transport as Transport

log = logging.getLogger(__name__)

STUCK_SECONDS = 5.0
"""An event loop that has not come round for so long is as good as gone: we are not ready."""
LAST_CALLS_SECONDS = 5.0
"""How long a model that has gone still answers calls that found it before: they may be reading their rows."""


class Server:
    """A running service.

        async with Server(config) as server:   # every bundle proven and warm, health SERVING
            await server.until_signal()        # SIGTERM or SIGINT
        # drained: every accepted call answered

    Args:
        config: settings to start with.
        read_again: gives the settings anew on SIGHUP; without it only models are looked for.

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
        self._serving = False
        self._beat = 0.0
        self._reloaded = {"keys": True, "tokens": True, "settings": True, "models": True}
        self._renewal = Renewal(config, self.metrics, self._told)
        self._transport: Transport
        self._model_health: ModelHealth
        self._fault: Exception | None = None
        self._health = health_aio.HealthServicer()
        self._page: MetricsServer
        self._running = RunningModels(self.metrics)
        self._looks: set[asyncio.Task[None]] = set()
        self._leaving = threading.Event()
        self._one_look = asyncio.Lock()
        self._watching: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()
        threads = ThreadPoolExecutor(available_cpus() + 1, "decoding")  # one more: see `Turns`
        turns = Turns(threads, config.turns, decoded=self.metrics.decoded)
        self.metrics.decoding_bytes.set_function(lambda: turns.size_bytes)
        self.metrics.decoding_pixels.set_function(lambda: turns.pixels)
        self._workers = Workers(asyncio.Lock(), ThreadPoolExecutor(1, "engine"), turns)

    async def __aenter__(self) -> Self:
        """Raises what `open_repository` raises, and OSError if a port is taken."""
        config = self.config
        loop = asyncio.get_running_loop()
        # In the engine's own thread: loading is slow, and signals must still be heard.
        self.repository = await loop.run_in_executor(
            self._workers.engine, open_repository, config, self.metrics, self._workers
        )
        for model in self.repository.served():
            self._running.start(model, config.queue)
        self._watch("event loop's lag", loop_lag.watch(self._on_lag))
        self._watching.extend(self._renewal.watch())
        self.metrics.ready.set_function(self.is_ready)
        self._show_metrics()
        self._hear_signals()
        await self._listen()
        self._serving, self._beat = True, time.monotonic()
        self._told("settings", True)
        warn_of_openness(config)
        log.info("ready: gRPC on %s:%d, metrics on %s:%d", config.host, self.port, config.host, self.metrics_port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drains: health says NOT_SERVING, then new calls are refused, accepted calls are answered."""
        self._serving = False
        self._leaving.set()
        for task in self._looks:
            task.cancel()
        await self._health.enter_graceful_shutdown()
        if error is None:
            await self._lame_duck()
        log.info("draining for at most %g s", self.config.drain_seconds)
        await self._transport.stop(self.config.drain_seconds)
        await self._running.retire_all()
        for task in self._watching:
            task.cancel()
        self._workers.engine.shutdown()
        self._workers.decoding.shutdown()
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
        keys = self._renewal.tls if config.metrics_tls else None
        page = Page(self.metrics, self.is_ready, self._renewal.access, config.open_health, config.open_metrics)
        self._page = MetricsServer(config.host, config.metrics_port, page, self.metrics, keys)
        self.metrics_port = self._page.server_port
        self._page.start()

    async def _listen(self) -> None:
        config = self.config
        inference = Inference(self.repository, self.metrics)
        health = ModelHealth(self._health, self.repository, self._running, self.metrics, config.stuck_batch_seconds)
        self._model_health = health
        served = services(
            Servicer(inference, self.repository, config),
            OpenInference(inference, self.repository, config, self.is_ready, health.well),
            self.metrics,
            config.max_request_rows,
        )
        self._transport = TRANSPORTS[config.transport](
            served,
            self._health,
            config.max_request_bytes,
            config.transport_limits,
            lambda reason: self.metrics.connections_closed.labels(reason).inc(),
            self._renewal.access,
        )
        self.port = await self._transport.listen(config.host, config.port, self._renewal.tls)
        self._watch("the transport", self._end_with_transport())
        await health.say()
        self._watch("models' health", health.watch())

    def _watch(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        self._watching.append(notice(asyncio.create_task(work, name=what)))

    async def until_signal(self) -> None:
        """Waits for SIGTERM or SIGINT; SIGHUP meanwhile reads settings and models again.

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
        """Takes over settings that may change at run time, then looks for models. What is wrong changes nothing."""
        if self._leaving.is_set():
            return
        self._renewal.renew()
        self._told("settings", self._reload_settings())
        task = notice(asyncio.create_task(self._reload_models(), name="reload"))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    def _told(self, part: str, well: bool) -> None:
        """One part of what was asked for is in force, or is not."""
        self._reloaded[part] = well
        self.metrics.config_reload_ok.set(all(self._reloaded.values()))

    def _reload_settings(self) -> bool:
        """Whether those in force are those asked for."""
        if self._read_again is None:
            return True
        try:
            new = self._read_again()
        except (ConfigError, OSError) as error:
            log.error("settings not reloaded: %s", error)
            return False
        taken, left = changed(self.config, new)
        self.config = self.config.model_copy(update={name: getattr(new, name) for name in taken})
        self._running.bound(self.config.queue)
        logging.getLogger().setLevel(self.config.log_level.upper())
        log.info(
            "settings reloaded: %s", {name: getattr(self.config, name) for name in sorted(taken)} or "none changed"
        )
        if left:
            log.error("need a restart: %s; at run time only %s may change", sorted(left), ", ".join(AT_RUN_TIME))
        return not left

    async def _reload_models(self) -> None:
        """Opens what is new, then lets it answer; gives up what has gone."""
        # On a CPU in a thread of its own: the engine's goes on serving. A GPU is the engine thread's alone: calls wait.
        on_gpu = any(model.execution_provider != CPU for model in self.repository.served())
        executor = self._workers.engine if on_gpu else None
        work = partial(look, self.config, self.metrics, self._workers, self.repository, self._leaving)
        async with self._one_look:
            try:
                found = await asyncio.get_running_loop().run_in_executor(executor, work)
            except Exception as error:  # whatever it is, what is served goes on
                expected = isinstance(error, (BundleError, DeviceError, OSError))
                log.error("models not reloaded: %s", error, exc_info=not expected)
                self._told("models", False)
                return
            for model in found.opened:
                self._running.start(model, self.config.queue)
            self.repository.take(found)
            self.metrics.rejected_bundles.set(len(found.refused))
            await self._model_health.say(found.gone)
            self._told("models", True)
        opened, gone, refused = len(found.opened), len(found.gone), len(found.refused)
        log.info("models reloaded: %d opened, %d gone, %d refused", opened, gone, refused)
        going = self._running.those_of(found.gone)
        found.gone.clear()
        if going:
            await asyncio.sleep(LAST_CALLS_SECONDS)
            await self._give_up(going)

    async def _give_up(self, going: list[Running]) -> None:
        """Empties the list: whoever still held a model would keep its memory."""
        keys = [one.model.key for one in going]
        while going:
            await self._running.retire(going.pop())
        async with self._one_look:  # one that is being opened again has its metrics already
            for name, version in keys:
                if version not in self.repository.models.get(name, {}):
                    self.metrics.forget(name, str(version))
        gc.collect()  # sessions lie in cycles, and their memory may be a GPU's

    async def _lame_duck(self) -> None:
        """Serves on while load balancers learn that this server is going; another signal cuts it short."""
        if self.config.lame_duck_seconds:
            log.info("lame duck for %g s", self.config.lame_duck_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self.config.lame_duck_seconds)
