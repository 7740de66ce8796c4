"""The scheduler: who runs when, and with whom.

The contract, each point of which has a test in tests/service/test_batching.py:

 1. Rows are counted, not requests. A batch is cut late: when the engine is free, from all that waits, up to
    `max_batch_rows`. A request larger than that is cut into pieces. With `window_seconds` a batch that is not full
    waits that long after its first arrival, no longer. Nothing polls, nothing sleeps.
 2. Highest priority first; within a priority the earliest deadline first; then the earliest arrival.
 3. What has expired or been cancelled is dropped before it costs a forward pass, and counted.
 4. Neighbours never feel each other. A caller who cancels leaves the others whole. A batch that fails is run again
    in halves, until what fails is one request alone.
 5. n rows in, n rows out, in order; each future is resolved exactly once.
 6. The queue is bounded in rows and in bytes. Over it `submit` raises Overloaded at once, with a hint when to come
    again. Expired work raises DeadlineExceeded. While draining `submit` raises Unavailable; what was accepted is
    still answered.
 7. Queues that share a `slot` (one device) take turns, batch by batch.

Knows asyncio and numpy: no gRPC, no ONNX Runtime, no Prometheus. Runs on one event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import DeadlineExceeded, Overloaded, Unavailable

Tensors = dict[str, NDArray[Any]]


class Piece(NamedTuple):
    """Rows of one request inside a batch, and the names of the tensors it wants."""

    rows: NDArray[Any]
    wants: frozenset[str]


Execute = Callable[[Sequence[Piece]], Awaitable[Sequence[Tensors]]]
"""Runs a batch: one dict of tensors per piece, each with as many rows as the piece. Raises if it cannot."""


@dataclass(frozen=True)
class QueueConfig:
    """Bounds of one queue.

    Attributes:
        max_batch_rows: rows of a batch.
        max_queue_rows: rows that may wait.
        max_queue_bytes: bytes that may wait.
        window_seconds: how long a batch that is not full waits after its first arrival.
    """

    max_batch_rows: int = 64
    max_queue_rows: int = 4096
    max_queue_bytes: int = 256 * 2**20
    window_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_batch_rows", "max_queue_rows", "max_queue_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.window_seconds < 0:
            raise ValueError(f"window_seconds: got {self.window_seconds}, expected 0 or more")


class Observer(Protocol):
    """Is told what happens. Must be quick and must not raise."""

    def queued(self, rows: int, size_bytes: int) -> None:
        """Rows and bytes that wait now."""

    def dropped(self, reason: str, rows: int) -> None:
        """Rows that will not run: `full`, `draining`, `expired`, `cancelled` or `failed`."""

    def waited(self, seconds: float, rows: int) -> None:
        """Rows left the queue for a batch after so long."""

    def executed(self, rows: int, dead_rows: int, seconds: float) -> None:
        """A batch ran; dead rows are those whose caller had gone before it started."""


@dataclass(eq=False)
class _Job:
    """One request: its rows, how far it has come, and the future its caller waits for."""

    rows: NDArray[Any] | None
    wants: frozenset[str]
    deadline: float
    arrived: float
    future: asyncio.Future[Tensors]
    num_rows: int
    taken: int = 0
    parts: dict[int, Tensors] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Rows that no batch has taken yet; none once the future is resolved."""
        return 0 if self.future.done() else self.num_rows - self.taken


class _Slice(NamedTuple):
    """Rows [start, stop) of a job."""

    job: _Job
    start: int
    stop: int


class BatchQueue:
    """A queue of requests in front of one engine.

    Args:
        execute: runs a batch.
        config: bounds.
        slot: held while a batch runs; share it between queues of one device.
        observer: is told what happens.
        clock: seconds, monotonic; deadlines are on this clock.
    """

    def __init__(
        self,
        execute: Execute,
        config: QueueConfig,
        slot: asyncio.Lock,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self._config = config
        self._slot = slot
        self._observer = observer
        self._clock = clock
        self._by_urgency: list[tuple[int, float, int, _Job]] = []  # (-priority, deadline, arrival)
        self._by_deadline: list[tuple[float, int, _Job]] = []
        self._jobs: set[_Job] = set()
        self._arrivals = itertools.count()
        self._rows = 0
        self._bytes = 0
        self._changed = asyncio.Event()
        self._draining = False
        self._rows_per_second = 0.0

    async def submit(
        self,
        rows: NDArray[Any],
        wants: frozenset[str],
        deadline: float = math.inf,
        priority: int = 0,
    ) -> Tensors:
        """Waits for the wanted tensors, one row each per row given.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the rows ran.
            Unavailable: draining.
            Exception: whatever `execute` raised for these rows alone.
        """
        self._admit(len(rows), rows.nbytes, deadline)
        future: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        job = _Job(rows, wants, deadline, self._clock(), future, len(rows))
        arrival = next(self._arrivals)
        heapq.heappush(self._by_urgency, (-priority, deadline, arrival, job))
        if deadline < math.inf:
            heapq.heappush(self._by_deadline, (deadline, arrival, job))
        self._count(len(rows), rows.nbytes)
        self._jobs.add(job)
        self._changed.set()
        try:
            return await future
        except asyncio.CancelledError:
            self._leave(job, "cancelled")
            raise
        finally:
            self._jobs.discard(job)

    def _admit(self, num_rows: int, size_bytes: int, deadline: float) -> None:
        if self._draining:
            self._observer.dropped("draining", num_rows)
            raise Unavailable("the server is draining, ask another")
        self._drop_expired()
        if deadline <= self._clock():
            self._observer.dropped("expired", num_rows)
            raise DeadlineExceeded("the deadline had passed on arrival")
        config = self._config
        if self._rows + num_rows > config.max_queue_rows or self._bytes + size_bytes > config.max_queue_bytes:
            self._observer.dropped("full", num_rows)
            raise Overloaded(
                f"queue is full: {self._rows} of {config.max_queue_rows} rows and {self._bytes} of"
                f" {config.max_queue_bytes} bytes wait, {num_rows} rows of {size_bytes} bytes came",
                retry_after_seconds=self._rows / self._rows_per_second if self._rows_per_second else 1.0,
            )

    async def run(self) -> None:
        """Serves the queue until `drain` has emptied it. If it is cancelled, nobody is left waiting."""
        try:
            while not (self._draining and self._rows == 0):
                await self._until(lambda: self._rows > 0 or self._draining)
                await self._fill_window()
                async with self._slot:
                    await self._run_batch(self._gather())
        finally:
            self._draining = True
            for job in list(self._jobs):
                self._resolve(job, Unavailable("the server stopped before the rows ran"))

    def drain(self) -> None:
        """Refuses what comes from now on; `run` returns when what has been accepted is answered."""
        self._draining = True
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _fill_window(self) -> None:
        """Waits for more rows, at most until `window_seconds` after the first arrival."""
        if not self._config.window_seconds:
            return
        first = min((entry[-1].arrived for entry in self._by_urgency if entry[-1].waiting), default=self._clock())
        full = self._until(lambda: self._rows >= self._config.max_batch_rows or self._draining)
        left = first + self._config.window_seconds - self._clock()
        try:
            await asyncio.wait_for(full, max(left, 0))
        except TimeoutError:
            return

    def _gather(self) -> list[_Slice]:
        """Cuts a batch: the most urgent rows that are still wanted."""
        self._drop_expired()
        now = self._clock()
        room = self._config.max_batch_rows
        batch: list[_Slice] = []
        while room and self._by_urgency:
            job = self._by_urgency[0][-1]
            num_rows = min(job.waiting, room)
            if num_rows:
                batch.append(_Slice(job, job.taken, job.taken + num_rows))
                self._count(-num_rows, -_share(job, num_rows))
                self._observer.waited(now - job.arrived, num_rows)
                job.taken += num_rows
                room -= num_rows
            if not job.waiting:
                heapq.heappop(self._by_urgency)
        return batch

    async def _run_batch(self, batch: list[_Slice]) -> None:
        batch = [part for part in batch if self._still_wanted(part)]
        if not batch:
            return
        pieces = [Piece(job.rows[start:stop], job.wants) for job, start, stop in batch if job.rows is not None]
        num_rows = sum(len(piece.rows) for piece in pieces)
        started = self._clock()
        dead = sum(stop - start for job, start, stop in batch if job.future.done() or job.deadline <= started)
        try:
            results = await self._execute(pieces)
        except Exception as error:
            self._observer.executed(num_rows, dead, self._clock() - started)
            await self._after_failure(batch, error)
            return
        seconds = self._clock() - started
        self._observer.executed(num_rows, dead, seconds)
        self._learn_speed(num_rows, seconds)
        for part, tensors in zip(batch, results, strict=True):
            _deliver(part, tensors)

    async def _after_failure(self, batch: list[_Slice], error: Exception) -> None:
        """One request fails alone; several are run again in halves, so that the good ones get answers."""
        if len(batch) > 1:
            half = len(batch) // 2
            await self._run_batch(batch[:half])
            await self._run_batch(batch[half:])
            return
        ((job, start, stop),) = batch
        self._observer.dropped("failed", stop - start)
        self._resolve(job, error)

    def _still_wanted(self, part: _Slice) -> bool:
        """False, and counted, if the caller left between the cut and now (a batch that is run again)."""
        job, start, stop = part
        expired = not job.future.done() and job.deadline <= self._clock()
        if expired:
            self._expire(job)
        if job.future.done():
            self._observer.dropped("expired" if expired else "cancelled", stop - start)
        return not job.future.done()

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._by_deadline and (self._by_deadline[0][0] <= now or self._by_deadline[0][-1].future.done()):
            job = heapq.heappop(self._by_deadline)[-1]
            if not job.future.done() and job.waiting:
                self._expire(job)
        self._compact()

    def _expire(self, job: _Job) -> None:
        late = self._clock() - job.deadline
        self._leave(job, "expired")
        self._resolve(job, DeadlineExceeded(f"the deadline passed {late * 1e3:.0f} ms ago while waiting"))

    def _leave(self, job: _Job, reason: str) -> None:
        """Takes the rows that still wait out of the count. The job's place in the heaps is cleaned later."""
        num_rows = job.num_rows - job.taken
        self._count(-num_rows, -_share(job, num_rows))
        job.taken = job.num_rows
        job.rows = None  # the memory goes now, not when the heap gets there
        if num_rows:
            self._observer.dropped(reason, num_rows)

    def _resolve(self, job: _Job, error: Exception) -> None:
        """Fails a job; rows of it that still wait will not run."""
        if job.waiting:
            num_rows = job.waiting
            self._count(-num_rows, -_share(job, num_rows))
            job.taken = job.num_rows
        if not job.future.done():
            job.future.set_exception(error)

    def _count(self, num_rows: int, size_bytes: int) -> None:
        self._rows += num_rows
        self._bytes += size_bytes
        self._observer.queued(self._rows, self._bytes)

    def _compact(self) -> None:
        """Places of jobs that left are dropped once they outnumber the rows that wait."""
        if len(self._by_urgency) > 64 + 2 * self._rows:
            self._by_urgency = [entry for entry in self._by_urgency if entry[-1].waiting]
            self._by_deadline = [entry for entry in self._by_deadline if entry[-1].waiting]
            heapq.heapify(self._by_urgency)
            heapq.heapify(self._by_deadline)

    def _learn_speed(self, num_rows: int, seconds: float) -> None:
        speed = num_rows / max(seconds, 1e-6)
        self._rows_per_second += 0.1 * (speed - self._rows_per_second) if self._rows_per_second else speed


def _share(job: _Job, num_rows: int) -> int:
    """Bytes of some rows of a job."""
    return 0 if job.rows is None else job.rows.nbytes // job.num_rows * num_rows


def _deliver(piece: _Slice, tensors: Tensors) -> None:
    job = piece.job
    if job.future.done():
        return
    job.parts[piece.start] = tensors
    if sum(len(next(iter(part.values()))) for part in job.parts.values()) < job.num_rows:
        return
    parts = [job.parts[start] for start in sorted(job.parts)]
    if len(parts) == 1:
        job.future.set_result(parts[0])
    else:
        job.future.set_result({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
