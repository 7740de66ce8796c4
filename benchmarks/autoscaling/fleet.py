"""Load, replicas and the autoscaler together, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.autoscaling.autoscaler import SECONDS, Autoscaler
from benchmarks.autoscaling.replicas import Engine, Replica, Seconds

MINUTE = 60.0
WINDOW = 4
"""Decisions that a rate is of: a minute of Prometheus."""
RATE_STEP = 1.0
"""Seconds of one rate."""
Decide = Callable[[float, int, int, "list[Period]"], int]
"""How many replicas there should be: by now, how many there are, how many of them are ready, and the last minute."""


@dataclass(frozen=True)
class Period:
    """Between two decisions.

    Attributes:
        minute: its end.
        rate: requests a second.
        replicas: that there were, ready or not.
        queue: mean milliseconds in the queue.
        p99: milliseconds to an answer, of requests that were begun in it.
        busy: share of the time of ready replicas.
    """

    minute: float
    rate: float
    replicas: int
    queue: float
    p99: float
    busy: float


@dataclass(frozen=True)
class Outcome:
    """A whole run.

    Attributes:
        periods: of it.
        seconds: to the answer of each request, by the period in which its batch began.
    """

    periods: list[Period]
    seconds: list[Seconds]

    def late(self, limit: float, first: float, last: float) -> float:
        """Share of requests that took longer than so many seconds, of batches that began within some minutes."""
        some = [one for period, one in zip(self.periods, self.seconds, strict=True) if first < period.minute <= last]
        return float((np.concatenate(some) > limit).mean())

    @property
    def replica_hours(self) -> float:
        """What it costs."""
        return sum(one.replicas for one in self.periods) * SECONDS / 3600


def arrivals(rates: NDArray[np.float64], seed: int = 0) -> Seconds:
    """Poisson arrivals of a load that is given second by second."""
    generator = np.random.default_rng(seed)
    counts = generator.poisson(rates * RATE_STEP)
    begin = np.repeat(np.arange(len(rates)) * RATE_STEP, counts)
    return np.sort(begin + generator.random(len(begin)) * RATE_STEP)


def simulate(
    engine: Engine,
    load: Seconds,
    first: int,
    start_up: float,
    decide: Decide | None = None,
) -> Outcome:
    """Runs a load; each request goes to one of the replicas that are ready, in turn.

    Args:
        engine: of each replica.
        load: arrivals, in order.
        first: replicas at the beginning, all ready.
        start_up: seconds until a new one is ready.
        decide: how many there should be; None: always as many. One that is taken away answers what it has first.
    """
    fleet, leaving = [Replica(engine) for _ in range(first)], list[Replica]()
    periods, all_seconds, now, taken = list[Period](), list[Seconds](), 0.0, 0
    while taken < len(load) or any(len(one.waiting) for one in [*fleet, *leaving]):
        until = now + SECONDS
        end = int(np.searchsorted(load, until))
        ready = [one for one in fleet if one.ready <= now]
        given = load[taken:end]
        results = [one.run(given[number :: len(ready)], until) for number, one in enumerate(ready)]
        others = [one.run(np.empty(0), until) for one in leaving]
        leaving = [one for one in leaving if len(one.waiting)]
        queued, seconds = (np.concatenate([one[at] for one in [*results, *others]]) for at in (0, 1))
        busy = sum(one[2] for one in results) / (SECONDS * len(ready))
        p99 = 1e3 * float(np.percentile(seconds, 99)) if len(seconds) else 0.0
        queue = 1e3 * float(queued.mean()) if len(queued) else 0.0
        periods.append(Period(until / MINUTE, len(given) / SECONDS, len(fleet), queue, p99, busy))
        all_seconds.append(seconds)
        if decide is not None:
            wanted = decide(until, len(fleet), len(ready), periods[-WINDOW:])
            leaving += fleet[wanted:]
            fleet = fleet[:wanted] + [Replica(engine, ready=until + start_up) for _ in range(wanted - len(fleet))]
        now, taken = until, end
    return Outcome(periods, all_seconds)


def by(fewest: int, most: int, queue_ms: float = math.inf, busy: float = math.inf, rate: float = math.inf) -> Decide:
    """On metrics of the last minute, averaged over replicas that are ready; of several, on that which asks for most.

    Args:
        fewest: replicas.
        most: replicas.
        queue_ms: target of the mean time in the queue.
        busy: target of the share of time that engines are busy.
        rate: target of rows a second of one replica.
    """
    scaler = Autoscaler(1.0, fewest, most)

    def decide(now: float, current: int, ready: int, window: list[Period]) -> int:
        rates = np.array([one.rate for one in window]) + 1e-9
        ratios = (
            float(np.average([one.queue for one in window], weights=rates)) / queue_ms,
            float(np.mean([one.busy for one in window])) / busy,
            float(rates.mean()) / ready / rate,
        )
        return scaler.replicas(now, current, ready, max(ratios))

    return decide
