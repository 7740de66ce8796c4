"""One replica in virtual time: whatever waits becomes a batch as soon as the engine is free.

That is the scheduler of `service/scheduling` for requests of one row and one priority; its own cost is not simulated.

Shape legend: N requests, in order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Engine:
    """A batch of n rows takes `fixed + n * per_row` seconds, of at most `rows` rows."""

    fixed: float
    per_row: float
    rows: int = 64

    @property
    def rate(self) -> float:
        """Rows a second of full batches, the most that there is."""
        return self.rows / (self.fixed + self.rows * self.per_row)


@dataclass
class Replica:
    """What it has to do, and what it did.

    Attributes:
        engine: of it.
        ready: when it takes requests.
        free: when its engine is free.
        waiting: arrivals that no batch has begun for.
    """

    engine: Engine
    ready: float = 0.0
    free: float = 0.0
    waiting: Seconds = field(default_factory=lambda: np.empty(0))

    def run(self, arrivals: Seconds, until: float) -> tuple[Seconds, Seconds, float]:
        """Begins all batches that can begin before a moment.

        Args:
            arrivals: of requests to it since the last call.
            until: that moment.

        Returns:
            of each request that a batch began for, seconds in the queue and seconds to its answer, and how many seconds
            of work were begun.
        """
        given_N = np.concatenate([self.waiting, arrivals])
        begun_N, ended_N = np.empty_like(given_N), np.empty_like(given_N)
        first, work = 0, 0.0
        while first < len(given_N):
            start = max(self.free, float(given_N[first]), self.ready)
            if start >= until:
                break
            last = min(int(np.searchsorted(given_N, start, side="right")), first + self.engine.rows)
            seconds = self.engine.fixed + (last - first) * self.engine.per_row
            begun_N[first:last], ended_N[first:last] = start, start + seconds
            self.free, first, work = start + seconds, last, work + seconds
        self.waiting = given_N[first:]
        done = slice(0, first)
        return begun_N[done] - given_N[done], ended_N[done] - given_N[done], work
