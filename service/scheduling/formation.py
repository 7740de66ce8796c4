"""How a batch is formed: of how many rows, and whose. Small batches serve requests in a hurry at nobody else's cost.

A batch answers all its rows at its end, so a request in a hurry is served by a small one. But a batch costs an overhead
however small it is, and rows that do not fit wait. Two accounts bound what that costs the others (ADR 19):

 1. Time. Small batches may waste `SHARE` of the engine's time and no more. A request that could be saved only by
    wasting more is not saved, and no small batch is formed for it.
 2. Rows. A small batch keeps places for those whom a whole batch suits: `KEPT` of what whole batches would give them.

Together: beside clients that fill up to a quarter of a batch, all others keep at least half of their throughput,
whatever deadlines and priorities those ask for, and whatever a batch costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from service.scheduling.pace import SLOW, Pace
from service.scheduling.queue import Job, PriorityQueue, Slice, split

SHARE = 0.25
"""Of the engine's time. With `KEPT` it leaves half; half as much saved fewer in a hurry than it was worth (ADR 19)."""
KEPT = 2 / 3
"""Of the rows that whole batches would have run; with a quarter of their places taken by others, that is half."""


class BatchFormation:
    """Decides on the rows of each batch, and learns from those that ran.

    Attributes:
        pace: what batches take.
    """

    def __init__(self) -> None:
        self.pace = Pace()
        self._credit_seconds = 0.0
        self._owed_rows = 0.0

    def smallest(self, whole: int) -> int:
        """Rows of the smallest batch that account 1 can pay for, of at most `whole`."""
        return self.pace.smallest_worth_forming(whole, SHARE, self._credit_seconds) if self.pace.known else whole

    def margin(self, waiting: int, num_rows: int) -> float:
        """Seconds that a row must have left to go into a batch of so many, if more of them wait; else it is dropped."""
        return self.pace.slow_seconds(num_rows) if self.pace.known and waiting > num_rows else 0.0

    def rows(self, urgent: Job | None, now: float, whole: int) -> int:
        """Rows of the next batch, at most `whole`.

        A batch may take half of what the most urgent request gave in all: rows that arrive while one batch runs are
        then answered by the next. Where that is too dear, it may take what is left of it.
        """
        if urgent is None or urgent.deadline == math.inf or not self.pace.known:
            return whole
        smallest, half = self.smallest(whole), (urgent.deadline - urgent.arrived) / 2
        fitting = self.pace.rows_within(half)
        if fitting < smallest or self.pace.seconds(fitting) > half:
            fitting = max(smallest, self.pace.rows_within((urgent.deadline - now) / SLOW))
        return min(fitting, whole)

    def share(self, parts: Sequence[Slice], num_rows: int, whole: int) -> tuple[list[Slice], list[Slice]]:
        """What of a whole batch goes into one of `num_rows`, and what goes back into the queue."""
        in_order, others = split(parts, num_rows)
        if not self.pace.known:
            return in_order, others
        of_whole = self.pace.seconds(whole)
        patient, hurried = _parted(parts, 2 * of_whole)
        owed = self._owed_rows + KEPT * _total(patient) * self.pace.seconds(num_rows) / of_whole
        served = _total(_parted(in_order, 2 * of_whole)[0]) if others else _total(patient)
        if owed >= 1 + served:
            first, left = split(patient, min(int(owed), num_rows))
            served = _total(first)
            hurried, behind = split(hurried, num_rows - served)
            in_order, others = [*hurried, *first], [*behind, *left]
        owed -= served
        self._owed_rows = min(max(owed, -whole), whole) if others or num_rows >= whole else 0.0
        return in_order, others

    def window_end(self, waiting: PriorityQueue[Job], window_seconds: float) -> float:
        """So long after the first arrival, or when half of the time is gone until the earliest deadline.

        Sooner if a batch may take more than the other half.
        """
        end, first = waiting.first_arrival() + window_seconds, waiting.earliest()
        if first is None:
            return end
        run = self.pace.slow_seconds(waiting.rows) if self.pace.known else 0.0
        return min(end, first.deadline - max(run, (first.deadline - first.arrived) / 2))

    def learn(self, num_rows: int, seconds: float, whole: int, cut_short: bool) -> None:
        """A batch of so many rows took so long; cut short: rows were put back when it was formed."""
        if self.pace.known:
            of_whole = self.pace.seconds(whole)
            wasted = max(seconds - num_rows / whole * of_whole, 0.0) if cut_short else 0.0
            credit = self._credit_seconds + SHARE * seconds - wasted
            self._credit_seconds = min(max(credit, -of_whole), of_whole)
        self.pace.learn(num_rows, seconds)


def _parted(parts: Iterable[Slice], seconds: float) -> tuple[list[Slice], list[Slice]]:
    """Those that gave at least so long, which whole batches answer in time, and those in a hurry."""
    patient: list[Slice] = []
    hurried: list[Slice] = []
    for part in parts:
        (patient if part.job.deadline - part.job.arrived >= seconds else hurried).append(part)
    return patient, hurried


def _total(parts: Iterable[Slice]) -> int:
    return sum(part.num_rows for part in parts)
