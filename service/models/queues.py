"""The queues of the models that are served: tasks that work them off, from the load of a model to its unloading.

A task that dies of a fault of ours is logged, counted and begun again. If it keeps dying, or a batch never ends, the
model is no longer well, and health says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.models.model import ServedModel
from service.observing.metrics import Metrics
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.instances import Instance, Instances

log = logging.getLogger(__name__)

MOST_FAILURES = 5
"""In a row: the sixth is the last. With these pauses calls fail for three seconds before the queue is dead."""
PAUSE_SECONDS = 0.1
"""Before the first new beginning; twice as long before each further one."""
STEADY_SECONDS = 60.0
"""After so long without a failure the count begins anew."""


def notice(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    """A task that nobody waits for: if it dies, the log says of what."""
    task.add_done_callback(_log_death)
    return task


def _log_death(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the task %s died", task.get_name(), exc_info=error)


@dataclass(eq=False)
class RunningModel:
    """A model and what works off its queues.

    Attributes:
        model: the model.
        tasks: one for each queue.
        dead: queues that nothing works off any more.
    """

    model: ServedModel
    tasks: list[asyncio.Task[None]]
    dead: set[str] = field(default_factory=set)


class ModelQueues:
    """The queues of every model that is served.

    Args:
        metrics: record queues that die.
        instances: that run what waits in them.
    """

    def __init__(self, metrics: Metrics, instances: Instances) -> None:
        self._metrics = metrics
        self._instances = instances
        self._all: list[RunningModel] = []

    def start(self, model: ServedModel, config: QueueConfig) -> None:
        """Begins to work off its queues, with these bounds: they may have changed since the model was loaded."""
        name, version = model.key
        one = RunningModel(model, [])
        for at, queue in model.queues.items():
            one.tasks.append(asyncio.create_task(self._work_off(one, at, queue), name=f"{name}/{version}/{at}"))
        self._all.append(one)
        self._bound(model, config)

    def well(self, model: ServedModel, stuck_seconds: float) -> bool:
        """Whether it can answer: its queues are worked off, and no batch holds some instance in service for long."""
        return self._instances.well(stuck_seconds) and not any(one.dead for one in self._all if one.model is model)

    @property
    def instances(self) -> list[Instance]:
        """Those in service and those that are out."""
        return self._instances.every

    def take_out_stuck(self, stuck_seconds: float) -> None:
        """Others run the batches of those that one has held for longer."""
        self._instances.take_out_stuck(stuck_seconds)

    async def prove(self, instance: Instance) -> None:
        """Golden rows of every model come out right on an instance. Raises if they do not."""
        for one in list(self._all):
            await one.model.engines.prove(instance)

    async def _work_off(self, one: RunningModel, at: str, queue: BatchQueue) -> None:
        """Until it is drained, or has died too often."""
        labels = one.model.manifest.name, str(one.model.manifest.version), at
        failures = 0
        try:
            while failures <= MOST_FAILURES:
                began = time.monotonic()
                try:
                    return await queue.run()
                except Exception:
                    log.exception("the queue %s/%s/%s died, its clients were told", *labels)
                    self._metrics.queue_failures.labels(*labels).inc()
                failures = 1 if time.monotonic() - began > STEADY_SECONDS else failures + 1
                await asyncio.sleep(PAUSE_SECONDS * 2 ** (failures - 1))
            one.dead.add(at)
            log.error("the queue %s/%s/%s died %d times in a row and is not started again", *labels, failures)
        finally:
            queue.close()

    def bound(self, config: QueueConfig) -> None:
        """From now on every queue has these bounds."""
        for one in self._all:
            self._bound(one.model, config)

    def those_of(self, models: Sequence[ServedModel]) -> list[RunningModel]:
        """What works for these models."""
        return [one for one in self._all if any(one.model is model for model in models)]

    async def retire(self, one: RunningModel) -> None:
        """All that waits in its queues is answered, then nothing holds the model any more."""
        for queue in one.model.queues.values():
            queue.drain()
        # shielded: whoever waits here may be cancelled, what is accepted is answered all the same
        await asyncio.gather(*map(asyncio.shield, one.tasks))
        if one in self._all:
            self._all.remove(one)

    async def retire_all(self) -> None:
        """As `retire`, of every one."""
        await asyncio.gather(*(self.retire(one) for one in list(self._all)))

    @staticmethod
    def _bound(model: ServedModel, config: QueueConfig) -> None:
        for queue in model.queues.values():
            queue.config = config
