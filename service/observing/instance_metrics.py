"""Records in the metrics what happens to the instances that run batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from service.observing.metrics import Metrics
from service.scheduling.instances import Instance


class InstanceMetrics:
    """See `service.scheduling.observer.InstanceObserver`. Children are looked up once, not per batch."""

    def __init__(self, metrics: Metrics, every: Sequence[Instance]) -> None:
        self._busy, self._ran, self._failed = [], [], []
        self._outages = metrics.instance_outages
        for one in every:
            labels = one.device, str(one.of_device)
            metrics.instance_in_service.labels(*labels).set_function(partial(_in_service, one))
            self._busy.append(metrics.instance_busy_seconds.labels(*labels))
            self._ran.append(metrics.instance_batches.labels(*labels, "ran"))
            self._failed.append(metrics.instance_batches.labels(*labels, "failed"))
            for why in ("failed", "stuck"):
                self._outages.labels(*labels, why)

    def ran(self, instance: Instance, seconds: float, well: bool) -> None:
        """See `InstanceObserver`; the others, too."""
        self._busy[instance.number].inc(seconds)
        (self._ran if well else self._failed)[instance.number].inc()

    def out(self, instance: Instance, why: str) -> None:
        """..."""
        self._outages.labels(instance.device, str(instance.of_device), why).inc()

    def back(self, instance: Instance) -> None:
        """..."""


def _in_service(one: Instance) -> float:
    return float(not one.is_out)
