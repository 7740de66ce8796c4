"""A bundle's engines, one for each instance: each opened, verified and warmed up before it runs a batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from latentserve import bundle
from latentserve.bundle import Manifest
from latentserve.errors import Unavailable
from service.engine.devices import DeviceError
from service.engine.engine import Engine
from service.engine.providers import DeviceConfig, has_driver
from service.scheduling.decoding_queue import DecodingQueue
from service.scheduling.instances import Instance, Instances
from service.scheduling.queue import Piece, Tensors

T = TypeVar("T")
STUCK_SECONDS = 1.0
"""How long the thread of an instance that is out of service has to end."""


class Cost(Protocol):
    """Is told what putting batches together costs."""

    def padded(self, rows: int, seconds: float) -> None:
        """A batch was filled up with so many rows; it took so long to put it together."""


@dataclass
class Workers:
    """What all models share.

    Attributes:
        instances: that run batches.
        decoding: threads that decode, or the queue before them.
        engines: the thread of each instance.
        loop: of the server; None: nothing is served.
    """

    instances: Instances
    decoding: ThreadPoolExecutor | DecodingQueue
    engines: Sequence[ThreadPoolExecutor] = ()
    loop: asyncio.AbstractEventLoop | None = None

    def __post_init__(self) -> None:
        self.engines = [ThreadPoolExecutor(1, f"engine-{one.name}") for one in self.instances.every]

    def on(self, one: Instance, work: Callable[[], T]) -> T:
        """Does what belongs on an instance, called from another thread than the loop's.

        A GPU is for its instance's thread alone, so no batch is given to it meanwhile. On a CPU it is done here, while
        the instance serves on.

        Raises:
            Unavailable: the instance is out of service.
        """
        if self.loop is None or one.device == "cpu" or not has_driver():
            return work()
        return asyncio.run_coroutine_threadsafe(self._held(one, work), self.loop).result()

    async def in_thread(self, one: Instance, work: Callable[[], T]) -> T:
        """Does it in the instance's own thread."""
        return await asyncio.get_running_loop().run_in_executor(self.engines[one.number], work)

    async def _held(self, one: Instance, work: Callable[[], T]) -> T:
        if not await self.instances.hold(one):
            raise Unavailable(f"{one.name} is out of service")
        try:
            return await self.in_thread(one, work)
        finally:
            self.instances.give(one)

    def shutdown(self) -> bool:
        """Ends the threads. False if one is stuck in a batch: nothing can end that but the end of the process."""
        self.instances.close()
        last = [thread.submit(int) for thread in self.engines]
        out = [last[one.number] for one in self.instances.every if one.is_out]
        has_ended = not wait(out, STUCK_SECONDS).not_done
        for thread in self.engines:
            thread.shutdown(wait=has_ended, cancel_futures=not has_ended)
        self.decoding.shutdown()
        return has_ended


class Engines:
    """The engines of one bundle.

    Args:
        folder: of the bundle.
        manifest: of the bundle.
        config: of devices; each instance names its own.
        workers: whose instances have engines.
    """

    def __init__(self, folder: Path, manifest: Manifest, config: DeviceConfig, workers: Workers) -> None:
        self._folder, self._manifest, self._config = folder, manifest, config
        self._workers = workers
        self._of: dict[int, Engine] = {}

    def open_all(self) -> str:
        """Opens one on each instance; on those out of service when they come back. Returns what runs them. Slow.

        Raises:
            BundleError: the bundle is broken, or its golden rows come out otherwise.
            DeviceError: the required device is not there, or none is in service.
        """
        for one in self._workers.instances.every:
            with contextlib.suppress(Unavailable):
                self._workers.on(one, partial(self.on, one))
        if not self._of:
            raise DeviceError("device: got none in service, expected one to load the bundle on")
        return next(iter(self._of.values())).execution_provider

    def on(self, one: Instance) -> Engine:
        """The engine of an instance; opened, verified and warmed up if it has none yet."""
        engine = self._of.get(one.number)
        if engine is None:
            engine = Engine(self._folder, self._manifest, replace(self._config, device=one.device))
            engine.check_golden(bundle.load_golden(self._folder, self._manifest))
            engine.warm_up()
            self._of[one.number] = engine
        return engine

    async def prove(self, one: Instance) -> None:
        """Golden rows come out right on this instance. Raises BundleError, or what ONNX Runtime raises."""

        def golden() -> None:
            self.on(one).check_golden(bundle.load_golden(self._folder, self._manifest))

        await self._workers.in_thread(one, golden)

    async def execute(self, one: Instance, given: str, cost: Cost, pieces: Sequence[Piece]) -> Sequence[Tensors]:
        """Runs a batch off the event loop: the next one gathers while this one runs."""
        run = self._of[one.number].run if one.number in self._of else lambda *asked: self.on(one).run(*asked)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._workers.engines[one.number], run, given, pieces
            )
        finally:
            if engine := self._of.get(one.number):
                cost.padded(engine.padding(sum(len(piece.rows) for piece in pieces)), engine.pad_seconds)
