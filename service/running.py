"""Models at work: the tasks that work off their queues, begun when a model is opened and ended when it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.batching import QueueConfig
from service.repository import ServedModel


@dataclass(eq=False)
class Running:
    """A model and what works off its queues."""

    model: ServedModel
    tasks: list[asyncio.Task[None]]


class RunningModels:
    """Every model that is at work."""

    def __init__(self) -> None:
        self._all: list[Running] = []

    def start(self, model: ServedModel, config: QueueConfig) -> None:
        """Begins to work off its queues, bounded as is said now: it may have changed since the model was opened."""
        name, version = model.key
        tasks = [asyncio.create_task(lane.run(), name=f"{name}/{version}/{at}") for at, lane in model.lanes.items()]
        self._all.append(Running(model, tasks))
        self._bound(model, config)

    def bound(self, config: QueueConfig) -> None:
        """From now on every queue has these bounds."""
        for one in self._all:
            self._bound(one.model, config)

    def those_of(self, models: Sequence[ServedModel]) -> list[Running]:
        """What works for these models."""
        return [one for one in self._all if any(one.model is model for model in models)]

    async def retire(self, one: Running) -> None:
        """All that waits in its queues is answered, then it is let go."""
        for lane in one.model.lanes.values():
            lane.drain()
        # shielded: whoever waits here may be cancelled, what is accepted is answered all the same
        await asyncio.gather(*map(asyncio.shield, one.tasks))
        if one in self._all:
            self._all.remove(one)

    async def retire_all(self) -> None:
        """As `retire`, of every one."""
        await asyncio.gather(*(self.retire(one) for one in list(self._all)))

    @staticmethod
    def _bound(model: ServedModel, config: QueueConfig) -> None:
        for lane in model.lanes.values():
            lane.config = config
