"""Whether each model can answer, for grpc.health.v1, the Open Inference Protocol and the page of metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health_pb2

from service.api.calls import OPEN_SERVICE, SERVICE
from service.models.model import ServedModel
from service.models.queues import ModelQueues
from service.models.repository import Repository
from service.observing.metrics import Metrics

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", SERVICE.full_name, OPEN_SERVICE.full_name)
EVERY_SECONDS = 1.0


class ModelHealth:
    """Reports whether calls are answered: of each model by its name, and of all services.

    A name serves if the version that answers by default is well. The services serve while any model does: what makes
    every model unwell is the device that they share, or that there is only one.

    Args:
        servicer: of grpc.health.v1.
        repository: the models.
        queues: of the models.
        metrics: record it, too.
        stuck_seconds: a batch that runs longer is stuck.
    """

    def __init__(
        self,
        servicer: Any,
        repository: Repository,
        queues: ModelQueues,
        metrics: Metrics,
        stuck_seconds: float,
    ) -> None:
        self._servicer = servicer
        self._repository = repository
        self._queues = queues
        self._metrics = metrics
        self._stuck_seconds = stuck_seconds
        self._said: dict[str, int] = {}
        self.any_well = True

    def well(self, model: ServedModel) -> bool:
        """Whether this version can answer."""
        return self._queues.well(model, self._stuck_seconds)

    async def say(self, unloaded: Sequence[ServedModel] = ()) -> None:
        """Sets the health that has changed. Unloaded models and rejected ones do not serve.

        Instances are named, too, as in `cuda:1/0`: one that is out of service does not serve.
        """
        self._queues.take_out_stuck(self._stuck_seconds)
        well = {model.key: self.well(model) for model in self._repository.served()}
        for (name, version), one in well.items():
            self._metrics.model_healthy.labels(name, str(version)).set(one)
        self.any_well = any(well.values())
        away = (*(one.name for one in self._repository.rejected), *(model.key[0] for model in unloaded))
        statuses = dict.fromkeys(SERVICES, SERVING if self.any_well else NOT_SERVING)
        statuses |= dict.fromkeys(away, NOT_SERVING)
        instances = {one.name: NOT_SERVING if one.is_out else SERVING for one in self._queues.instances}
        statuses |= instances
        for name, versions in self._repository.models.items():
            statuses[name] = SERVING if well[name, max(versions)] else NOT_SERVING
        for name, status in statuses.items():
            if self._said.get(name) != status:
                self._said[name] = status
                if status == NOT_SERVING and name not in (*away, *instances):
                    log.error("%s: not serving, its queue is dead or no device serves it", name or "the server")
                await self._servicer.set(name, status)

    async def watch(self) -> None:
        """Checks every second, until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.say()
