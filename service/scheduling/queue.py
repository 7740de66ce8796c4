"""The queue in which requests wait: most urgent first, bounded by nothing, counted in rows and bytes.

A data structure and no more: it neither waits nor decides. `batching` does for rows that are to run, `decoding_queue`
for files that are to be decoded: both by one order.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput

Tensors = dict[str, NDArray[Any]]


class Waiter(Protocol):
    """What can stand in a queue.

    Attributes:
        deadline: on the scheduler's clock.
        priority: larger goes first.
        arrived: on the scheduler's clock.
        num_rows: of it.
        taken: rows that have gone to work.
        place: among the arrivals; set by the queue.
    """

    deadline: float
    priority: int
    arrived: float
    num_rows: int
    taken: int
    place: int

    @property
    def waiting(self) -> int:
        """Rows that have not gone to work yet; none once it is settled."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one of its rows."""

    def let_go(self) -> None:
        """Holds its rows no longer: they will not go to work."""


W = TypeVar("W", bound=Waiter)


@dataclass(eq=False)
class Job:
    """One request: its rows, how far it has come, and the future its call waits for.

    Attributes:
        rows: [n, ...]; None once the client has left.
        wants: names of the tensors to answer with.
        deadline: on the scheduler's clock.
        priority: larger goes first.
        arrived: on the scheduler's clock.
        future: resolved exactly once.
        num_rows: n.
        taken: rows that have gone into a batch.
        parts: answers so far, by the first row of each.
        place: among the arrivals, which settles what is equally urgent.

    Raises:
        InvalidInput: there are no rows, or the deadline is no number: neither has a place in the queue.
    """

    rows: NDArray[Any] | None
    wants: frozenset[str]
    deadline: float
    priority: int
    arrived: float
    future: asyncio.Future[Tensors]
    num_rows: int
    taken: int = 0
    parts: dict[int, Tensors] = field(default_factory=dict)
    place: int = 0

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise InvalidInput.at("rows", got=self.num_rows, expected="at least 1")
        if math.isnan(self.deadline):
            raise InvalidInput.at("deadline", got=self.deadline, expected="a time")

    @property
    def waiting(self) -> int:
        """Rows that no batch has taken yet; none once the future is resolved."""
        return 0 if self.future.done() else self.num_rows - self.taken

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of none once the client has left."""
        return 0 if self.rows is None else self.rows.nbytes // self.num_rows

    def deliver(self, start: int, tensors: Tensors) -> None:
        """Takes the answer to a part; the last one resolves the job, all parts joined in order."""
        if self.future.done():
            return
        self.parts[start] = tensors
        if sum(num_rows_of(one) for one in self.parts.values()) == self.num_rows:
            parts = [self.parts[first] for first in sorted(self.parts)]
            if len(parts) > 1:
                parts[0] = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
            self.future.set_result(parts[0])

    def let_go(self) -> None:
        """The memory goes now, not when the heap gets there."""
        self.rows = None


def num_rows_of(tensors: Tensors) -> int:
    """Rows of an answer; 0 without tensors."""
    return min((len(tensor) for tensor in tensors.values()), default=0)


class Part(NamedTuple, Generic[W]):
    """Rows [start, stop) of a job."""

    job: W
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """How many."""
        return self.stop - self.start


def split(parts: Sequence[Part[W]], num_rows: int) -> tuple[list[Part[W]], list[Part[W]]]:
    """The first rows, no more than so many, and the others; the part between them is split."""
    first, others = [], []
    for part in parts:
        fitting = min(num_rows, part.num_rows)
        if fitting:
            first.append(Part(part.job, part.start, part.start + fitting))
        if fitting < part.num_rows:
            others.append(Part(part.job, part.start + fitting, part.stop))
        num_rows -= fitting
    return first, others


Slice = Part[Job]
"""In a batch."""


class Piece(NamedTuple):
    """Rows of one request inside a batch, and the names of the tensors it wants."""

    rows: NDArray[Any]
    wants: frozenset[str]


Execute = Callable[[Sequence[Piece]], Awaitable[Sequence[Tensors]]]
"""Runs a batch: one dict of tensors per piece, each with as many rows as the piece. Raises if it cannot."""


def checked(pieces: Sequence[Piece], results: Sequence[Tensors]) -> Sequence[Tensors]:
    """The results. Raises RuntimeError if they are not as many: somebody would wait for ever, or get another's rows."""
    expected, got = [len(piece.rows) for piece in pieces], [num_rows_of(one) for one in results]
    if got != expected:
        raise RuntimeError(f"engine: got {got} rows for its pieces, expected {expected}")
    return results


class PriorityQueue(Generic[W]):
    """Jobs by priority, then deadline, then arrival.

    Jobs that leave stay in the heaps as empty places until they reach the top or outnumber the rest.

    Attributes:
        rows: that wait.
        size_bytes: of them.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.size_bytes = 0
        self._by_urgency: list[tuple[int, float, int, W]] = []
        self._by_deadline: list[tuple[float, int, W]] = []
        self._arrivals = itertools.count()

    def add(self, job: W) -> None:
        """Puts a job in its place."""
        job.place = next(self._arrivals)
        self._stand(job)
        if job.deadline < math.inf:
            heapq.heappush(self._by_deadline, (job.deadline, job.place, job))
        self._count(job, job.num_rows)

    def leave(self, job: W) -> int:
        """Takes out the rows of a job that still wait; returns how many."""
        num_rows = job.num_rows - job.taken
        self._count(job, -num_rows)
        job.taken = job.num_rows
        job.let_go()
        self._compact()
        return num_rows

    def pop_expired(self, now: float) -> list[W]:
        """Jobs that still wait and whose deadline has passed. They are yet to leave."""
        expired = []
        while self._by_deadline and (self._by_deadline[0][0] <= now or not self._by_deadline[0][-1].waiting):
            job = heapq.heappop(self._by_deadline)[-1]
            if job.waiting:
                expired.append(job)
        return expired

    def take(self, max_rows: int) -> list[Part[W]]:
        """Takes out the most urgent rows, splitting the last job if it does not fit."""
        taken: list[Part[W]] = []
        while max_rows and self._by_urgency:
            job = self._by_urgency[0][-1]
            num_rows = min(job.waiting, max_rows)
            if num_rows:
                taken.append(Part(job, job.taken, job.taken + num_rows))
                self._count(job, -num_rows)
                job.taken += num_rows
                max_rows -= num_rows
            if not job.waiting:
                heapq.heappop(self._by_urgency)
        return taken

    def put_back(self, parts: Sequence[Part[W]]) -> None:
        """Rows just taken wait again, in their old places. Of each job the last ones that were taken."""
        for job, start, stop in parts:
            if not job.waiting:
                self._stand(job)
            job.taken = start
            self._count(job, stop - start)

    def let_pass(self, job: W) -> None:
        """Behind those that are as urgent as this one, which would be taken next. The rest of it waits on."""
        if self._by_urgency and self._by_urgency[0][-1] is job:
            heapq.heappop(self._by_urgency)
            job.place = next(self._arrivals)
            self._stand(job)

    def most_urgent(self) -> W | None:
        """The job whose rows would be taken first."""
        while self._by_urgency and not self._by_urgency[0][-1].waiting:
            heapq.heappop(self._by_urgency)
        return self._by_urgency[0][-1] if self._by_urgency else None

    def earliest(self) -> W | None:
        """The job whose deadline comes first, whatever its priority; None if no job that waits has one."""
        while self._by_deadline and not self._by_deadline[0][-1].waiting:
            heapq.heappop(self._by_deadline)
        return self._by_deadline[0][-1] if self._by_deadline else None

    def first_arrival(self) -> float:
        """When the job arrived that has waited longest; infinity if none waits."""
        return min((entry[-1].arrived for entry in self._by_urgency if entry[-1].waiting), default=math.inf)

    def num_places(self) -> int:
        """Places in the heaps, the empty ones included."""
        return len(self._by_urgency) + len(self._by_deadline)

    def _stand(self, job: W) -> None:
        heapq.heappush(self._by_urgency, (-job.priority, job.deadline, job.place, job))

    def _count(self, job: W, num_rows: int) -> None:
        self.rows += num_rows
        self.size_bytes += job.row_bytes * num_rows

    def _compact(self) -> None:
        if len(self._by_urgency) > 64 + 2 * self.rows:
            self._by_urgency = [entry for entry in self._by_urgency if entry[-1].waiting]
            heapq.heapify(self._by_urgency)
        if len(self._by_deadline) > 64 + 2 * self.rows:
            self._by_deadline = [entry for entry in self._by_deadline if entry[-1].waiting]
            heapq.heapify(self._by_deadline)
