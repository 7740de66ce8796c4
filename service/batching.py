"""The scheduler: who runs when, and with whom.

The contract, each point of which has a test in tests/service/test_batching.py:

 1. Rows are counted, not requests. A batch is cut late: when the engine is free, from all that waits, up to
    `max_batch_rows`. A request larger than that is cut into pieces. With `window_seconds` a batch that is not full
    waits that long after its first arrival, no longer. Nothing polls, nothing sleeps.
 2. Highest priority first; within a priority the earliest deadline first; then the earliest arrival.
 3. What has expired or been cancelled is dropped before it costs a forward pass, and counted. Under overload so is what
    would expire inside the next batch, and batches are cut so that they fit into the deadlines they serve.
 4. Neighbours never feel each other. A caller who cancels leaves the others whole. A batch that fails is run again
    in halves, until what fails is one request alone.
 5. n rows in, n rows out, in order; each future is resolved exactly once.
 6. The queue is bounded in rows and in bytes, those that `reserve` keeps room for included (`door`). Over it both raise
    Overloaded at once, with a hint when to come again. Expired work raises DeadlineExceeded. While draining they raise
    Unavailable; what was accepted is still answered.
 7. Queues that share a `slot` (one device) take turns, batch by batch.

Knows asyncio and numpy: no gRPC, no ONNX Runtime, no Prometheus. One event loop, not thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import DeadlineExceeded, Unavailable
from service.door import Door, Place
from service.door import QueueConfig as QueueConfig
from service.pace import Pace
from service.waiting import Job, Slice, Tensors, WaitingLine


class Piece(NamedTuple):
    """Rows of one request inside a batch, and the names of the tensors it wants."""

    rows: NDArray[Any]
    wants: frozenset[str]


Execute = Callable[[Sequence[Piece]], Awaitable[Sequence[Tensors]]]
"""Runs a batch: one dict of tensors per piece, each with as many rows as the piece. Raises if it cannot."""


class Observer(Protocol):
    """Is told what happens. Must be quick and must not raise."""

    def queued(self, rows: int, size_bytes: int) -> None:
        """Rows and bytes that wait now, those that room is kept for included."""

    def dropped(self, reason: str, rows: int) -> None:
        """Rows that will not run: `full`, `draining`, `expired`, `cancelled`, `invalid` or `failed`."""

    def waited(self, seconds: float, rows: int) -> None:
        """Rows left the queue for a batch after so long."""

    def cut(self, why: str) -> None:
        """A batch was cut: `full`, `free` (the engine was) or `window` (it had waited)."""

    def executed(self, rows: int, dead_rows: int, seconds: float) -> None:
        """A batch ran; dead rows are those whose caller had gone when it was done."""


class BatchQueue:
    """A queue of requests in front of one engine.

    Args:
        execute: runs a batch.
        config: bounds; may be replaced at any time.
        slot: held while a batch runs; shared by the queues of one device.
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
        self.config = config
        self._slot = slot
        self._observer = observer
        self._clock = clock
        self._line = WaitingLine[Job]()
        self._jobs: set[Job] = set()
        self._changed = asyncio.Event()
        self._draining = False
        self._pace = Pace()
        self.backlog: Callable[[], float] = lambda: 0.0  # seconds until rows being read will have been; for the hint
        self._door = Door(self._line, self._seconds, observer.dropped, self._on_room, clock)

    def reserve(self, rows: int, size_bytes: int, deadline: float = math.inf, priority: int = 0) -> Place:
        """Keeps room for rows that are still to be read. Raises as `submit` does if there is none."""
        self._drop_expired()
        place = self._door.enter(self.config, rows, size_bytes, deadline, priority)
        self._tell_queue()
        return place

    async def submit(
        self,
        rows: NDArray[Any],
        wants: frozenset[str],
        deadline: float = math.inf,
        priority: int = 0,
        place: Place | None = None,
    ) -> Tensors:
        """Waits for the wanted tensors, one row each per row given; with a place that they fit in they are not refused.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the rows ran.
            Unavailable: draining.
            Exception: whatever `execute` raised for these rows alone.
        """
        self._let_in(rows, deadline, priority, place)
        future: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        job = Job(rows, wants, deadline, priority, self._clock(), future, len(rows))
        self._line.add(job)
        self._jobs.add(job)
        self._tell_queue()
        self._changed.set()
        try:
            return await future
        except asyncio.CancelledError:
            self._drop(job, "expired" if deadline <= self._clock() else "cancelled")
            raise
        finally:
            self._jobs.discard(job)

    async def run(self) -> None:
        """Serves the queue until `drain` has emptied it. If it is cancelled, nobody is left waiting."""
        try:
            while not self._is_over():
                await self._until(lambda: self._line.rows > 0 or self._is_over())
                if self.config.window_seconds:
                    await self._fill_window()
                async with self._slot:
                    batch = self._gather()
                    # Nothing to run though rows wait: their callers were cancelled this very moment; let them leave.
                    await (self._run_batch(batch) if batch else asyncio.sleep(0))
        finally:
            self._draining = self._door.shut = self._door.closed = True
            for job in list(self._jobs):
                self._fail(job, Unavailable("the server stopped before the rows ran"))

    def drain(self) -> None:
        """Refuses what comes from now on; `run` returns when what has been accepted is answered."""
        self._draining = self._door.shut = True
        self._changed.set()

    def _is_over(self) -> bool:
        return self._draining and self._line.rows + self._door.rows == 0

    def oldest_age(self) -> float:
        """Seconds that the oldest row has waited to run or to be read; 0 if none waits."""
        return max(self._clock() - min(self._line.first_arrival(), self._door.first_arrival()), 0.0)

    def _let_in(self, rows: NDArray[Any], deadline: float, priority: int, place: Place | None) -> None:
        if place is not None and place.fits(len(rows), rows.nbytes):
            place.use()
            return
        if place is not None:
            place.give_back()
        self.reserve(len(rows), rows.nbytes, deadline, priority).give_back()

    def _seconds(self, rows: int) -> float:
        return max(self._pace.seconds(rows) if self._pace.known else 1.0, self.backlog() if self._door.rows else 0.0)

    def _on_room(self) -> None:
        self._tell_queue()
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _fill_window(self) -> None:
        """Waits for more rows, at most until `window_seconds` after the first arrival."""
        full = self._until(lambda: self._line.rows >= self.config.max_batch_rows or self._draining)
        left = self._line.first_arrival() + self.config.window_seconds - self._clock()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(full, max(left, 0))

    def _gather(self) -> list[Slice]:
        """Cuts a batch, now and no earlier: the most urgent rows that are still wanted."""
        self._drop_expired()
        max_rows, margin = self._fitting()
        self._drop_expired(margin)
        batch = self._line.take(max_rows)
        now = self._clock()
        for job, start, stop in batch:
            self._observer.waited(now - job.arrived, stop - start)
        if batch:
            full = sum(stop - start for _, start, stop in batch) == self.config.max_batch_rows
            self._observer.cut("full" if full else "window" if self.config.window_seconds else "free")
        self._tell_queue()
        return batch

    def _fitting(self) -> tuple[int, float]:
        """Rows of the next batch, and the seconds that a row must have left to go into it.

        A batch may take half of what the most urgent caller gave in all: then rows that arrive while one batch runs are
        answered by the next. If more waits than that, what would expire inside a slow batch is given up now.
        """
        max_rows, urgent = self.config.max_batch_rows, self._line.most_urgent()
        if urgent is None or urgent.deadline == math.inf or not self._pace.known:
            return max_rows, 0.0
        in_time = self._pace.rows_within((urgent.deadline - urgent.arrived) / 2)
        max_rows = min(max_rows, in_time)
        return max_rows, self._pace.slow_seconds(max_rows) if self._line.rows > in_time else 0.0

    async def _run_batch(self, batch: list[Slice]) -> None:
        batch = [part for part in batch if self._still_wanted(part)]
        if not batch:
            return
        pieces = [Piece(job.rows[start:stop], job.wants) for job, start, stop in batch if job.rows is not None]
        num_rows = sum(len(piece.rows) for piece in pieces)
        started, error = self._clock(), None
        try:
            results = await self._execute(pieces)
        except Exception as raised:
            error = raised
        ended = self._clock()
        dead = sum(stop - start for job, start, stop in batch if job.future.done() or job.deadline < ended)
        self._observer.executed(num_rows, dead, ended - started)
        if error is not None:
            await self._after_failure(batch, error)
            return
        self._pace.learn(num_rows, ended - started)
        for part, tensors in zip(batch, results, strict=True):
            _deliver(part, tensors)

    async def _after_failure(self, batch: list[Slice], error: Exception) -> None:
        """One request fails alone; several are run again in halves, so that the good ones get answers."""
        if len(batch) > 1:
            await self._run_batch(batch[: len(batch) // 2])
            await self._run_batch(batch[len(batch) // 2 :])
            return
        self._observer.dropped("failed", batch[0].stop - batch[0].start)
        self._fail(batch[0].job, error)

    def _still_wanted(self, part: Slice) -> bool:
        """False, and counted, if the caller left between the cut and now (a batch that is run again)."""
        job, start, stop = part
        expired = not job.future.done() and job.deadline <= self._clock()
        if expired:
            self._expire(job)
        if job.future.done():
            self._observer.dropped("expired" if expired else "cancelled", stop - start)
        return not job.future.done()

    def _drop_expired(self, margin: float = 0.0) -> None:
        for job in self._line.pop_expired(self._clock() + margin):
            self._expire(job)

    def _expire(self, job: Job) -> None:
        left = job.deadline - self._clock()
        self._drop(job, "expired")
        why = f"passed {-left * 1e3:.0f} ms ago" if left <= 0 else f"in {left * 1e3:.0f} ms could not be met"
        self._fail(job, DeadlineExceeded(f"the deadline {why}"))

    def _drop(self, job: Job, reason: str) -> None:
        if num_rows := self._line.leave(job):
            self._observer.dropped(reason, num_rows)
        self._tell_queue()

    def _fail(self, job: Job, error: Exception) -> None:
        """Resolves a job with an error; rows of it that still wait will not run."""
        self._line.leave(job)
        self._tell_queue()
        if not job.future.done():
            job.future.set_exception(error)

    def _tell_queue(self) -> None:
        self._observer.queued(self._line.rows + self._door.rows, self._line.size_bytes + self._door.size_bytes)


def _deliver(part: Slice, tensors: Tensors) -> None:
    """Hands a part to its job; the last one resolves it, all parts joined in order."""
    job = part.job
    if job.future.done():
        return
    job.parts[part.start] = tensors
    if sum(len(next(iter(one.values()))) for one in job.parts.values()) == job.num_rows:
        parts = [job.parts[start] for start in sorted(job.parts)]
        if len(parts) > 1:
            parts[0] = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        job.future.set_result(parts[0])
