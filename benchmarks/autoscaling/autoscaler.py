"""What Kubernetes' HorizontalPodAutoscaler decides from one metric, with stabilisation and the limits of its steps.

Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/, "Algorithm details" and
"Configurable scaling behavior". The numbers are those of deploy/kubernetes/base/autoscaling.yml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SECONDS = 15.0
"""From one decision to the next, as the controller's default."""
TOLERANCE = 0.1
"""A metric within a tenth of its target changes nothing."""


@dataclass(frozen=True)
class Up:
    """Growth: at most by so many percent within so many seconds."""

    stabilization: float = 30
    percent: float = 100
    period: float = 30


@dataclass(frozen=True)
class Down:
    """Its reverse: at most so many replicas within so many seconds."""

    stabilization: float = 300
    pods: int = 1
    period: float = 60


@dataclass
class Autoscaler:
    """One deployment's.

    Attributes:
        target: of the metric, averaged over ready replicas.
        fewest: replicas.
        most: replicas.
        up: see there.
        down: see there.
    """

    target: float
    fewest: int = 2
    most: int = 10
    up: Up = field(default_factory=Up)
    down: Down = field(default_factory=Down)
    _wanted: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def replicas(self, now: float, current: int, ready: int, metric: float) -> int:
        """How many there should be.

        Args:
            now: seconds.
            current: how many there are.
            ready: how many of them take requests; the others count as idle where the metric asks for more.
            metric: mean of the ready ones.
        """
        ratio = metric / self.target
        wanted = current
        if abs(ratio - 1) > TOLERANCE:
            wanted = math.ceil(ready * ratio)
            if ratio > 1 and ready < current:
                wanted = max(wanted, current)
        wanted = min(max(wanted, self.fewest), self.most)
        self._wanted.append((now, wanted))
        low = min([wanted, *(one for when, one in self._wanted if when > now - self.up.stabilization)])
        high = max([wanted, *(one for when, one in self._wanted if when > now - self.down.stabilization)])
        stable = low if low > current else high if high < current else current
        found = min(max(stable, self._least(now, current)), self._greatest(now, current))
        if found != current:
            self._changes.append((now, found - current))
        return found

    def _changed(self, now: float, period: float, sign: int) -> int:
        return sum(by for when, by in self._changes if when > now - period and by * sign > 0)

    def _greatest(self, now: float, current: int) -> int:
        before = current - self._changed(now, self.up.period, 1)
        return max(current, math.ceil(before * (1 + self.up.percent / 100)))

    def _least(self, now: float, current: int) -> int:
        before = current - self._changed(now, self.down.period, -1)
        return min(current, before - self.down.pods)
