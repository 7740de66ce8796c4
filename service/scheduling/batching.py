"""The scheduler: who runs when, and with whom.

The contract, each point of which has a test in tests/service/scheduling/test_batching.py:

 1. Rows are counted, not requests. A batch is formed late: when the engine is free, from all that waits, up to
    `max_batch_rows`. A request larger than that is split into pieces. With `window_seconds` a batch that is not full
    waits that long after its first arrival, no longer, and no longer than deadlines allow. Nothing polls or sleeps.
 2. Highest priority first; within a priority the earliest deadline first; then the earliest arrival.
 3. What has expired or been cancelled is dropped before it costs a forward pass, and counted. Under overload so is what
    would expire inside the next batch, and batches are formed so that they fit into the deadlines they serve, as far as
    that leaves the others at least half of their throughput (`formation`).
 4. Co-batched requests do not affect each other. A client that cancels leaves the others whole. A batch that fails is
    run again in halves, until what fails is one request alone (`execution`).
 5. n rows in, n rows out, in order; each future is resolved exactly once, and each row counted once: run or dropped.
 6. The queue is bounded in rows and in bytes, those that `reserve` keeps room for included (`admission`). Over the
    bounds both raise Overloaded at once, with a hint when to retry. Expired work raises DeadlineExceeded. While
    draining they raise Unavailable; what was accepted is still answered.
 7. Queues that share `instances` take turns, batch by batch. With several instances a batch runs on each at once; the
    points above hold as with one (`instances`).
 8. A batch that fails on an instance, or is stuck there, is run whole on another in service. If it runs there the first
    is out of service until it is proven (`execution`, `instances`). Without any in service all raise Unavailable.

Knows asyncio and numpy: no gRPC, no ONNX Runtime, no Prometheus. One event loop, not thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from latentserve.errors import DeadlineExceeded, InternalError, Unavailable
from service.scheduling.admission import Admission, Reservation
from service.scheduling.admission import QueueConfig as QueueConfig
from service.scheduling.execution import Execution, Turn
from service.scheduling.formation import BatchFormation
from service.scheduling.instances import Instances, NoneInService
from service.scheduling.observer import Observer, Tolerant
from service.scheduling.queue import Execute, Job, PriorityQueue, Slice, Tensors


class BatchQueue:
    """A queue of requests in front of an engine, or several.

    Args:
        executes: runs a batch, one for each instance.
        config: bounds; may be replaced at any time.
        instances: one is held while a batch runs; shared by all queues.
        observer: is told what happens.
        clock: seconds, monotonic; deadlines are on this clock.
    """

    def __init__(
        self,
        executes: Sequence[Execute],
        config: QueueConfig,
        instances: Instances,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._instances = instances
        self._observer: Observer = Tolerant(observer)
        self._clock = clock
        self._waiting = PriorityQueue[Job]()
        self._jobs: set[Job] = set()
        self._changed = asyncio.Event()
        self._draining = False
        self._formation = BatchFormation()
        self._one_forms = asyncio.Lock()
        self._execution = Execution(
            executes, instances, self._formation, self._observer, self._fail, self._expire, clock
        )
        self.backlog: Callable[[], float] = lambda: 0.0  # seconds until rows being read will have been; for the hint
        self._admission = Admission(self._waiting, self._seconds, self._observer.dropped, self._on_room, clock)

    @property
    def config(self) -> QueueConfig:
        """Bounds in force. New ones hold at once, for a window that is being waited for, too."""
        return self._config

    @config.setter
    def config(self, config: QueueConfig) -> None:
        self._config = config
        self._changed.set()

    def reserve(self, rows: int, size_bytes: int, deadline: float = math.inf, priority: int = 0) -> Reservation:
        """Keeps room for rows that are still to be read. Raises as `submit` does if there is none."""
        self._drop_expired()
        reservation = self._admission.enter(self.config, rows, size_bytes, deadline, priority)
        self._tell_queue()
        return reservation

    async def submit(
        self,
        rows: NDArray[Any],
        wants: frozenset[str],
        deadline: float = math.inf,
        priority: int = 0,
        reservation: Reservation | None = None,
    ) -> Tensors:
        """Waits for the wanted tensors, one row each per row given; rows that fit their reservation are admitted.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the rows ran.
            Unavailable: draining.
            Exception: whatever `execute` raised for these rows alone.
        """
        self._let_in(rows, deadline, priority, reservation)
        future: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        job = Job(rows, wants, deadline, priority, self._clock(), future, len(rows))
        self._waiting.add(job)
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
        """Serves the queue until `drain` has emptied it. Whatever ends it, nobody is left waiting.

        After an error, which is a bug of ours, it may be called again.
        """
        workers = [asyncio.create_task(self._work_off()) for _ in self._instances.every]
        try:
            await asyncio.gather(*workers)
        except Exception:
            self._abandon("failed", InternalError("the queue failed before the rows ran; the server's log says why"))
            raise
        except BaseException:  # cancelled
            self.close()
            raise
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def drain(self) -> None:
        """Rejects what comes from now on; `run` returns when what has been accepted is answered."""
        self._draining = self._admission.shut = True
        self._changed.set()

    def close(self) -> None:
        """Rejects what comes from now on, and what waits: nobody will run it."""
        self.drain()
        self._admission.closed = True
        self._abandon("draining", Unavailable("the server stopped before the rows ran"))

    def _is_over(self) -> bool:
        return self._draining and self._waiting.rows + self._admission.rows == 0

    def oldest_age(self) -> float:
        """Seconds that the oldest row has waited to run or to be read; 0 if none waits."""
        return max(self._clock() - min(self._waiting.first_arrival(), self._admission.first_arrival()), 0.0)

    def _let_in(self, rows: NDArray[Any], deadline: float, priority: int, reservation: Reservation | None) -> None:
        if reservation is not None and reservation.fits(len(rows), rows.nbytes):
            reservation.use()
            return
        if reservation is not None:
            reservation.give_back()
        self.reserve(len(rows), rows.nbytes, deadline, priority).give_back()

    def _seconds(self, rows: int) -> float:
        pace = self._formation.pace
        seconds = pace.seconds(rows) / max(self._instances.num_in_service, 1) if pace.known else 1.0
        return max(seconds, self.backlog() if self._admission.rows else 0.0)

    def _on_room(self) -> None:
        self._tell_queue()
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _fill_window(self) -> None:
        """Waits for more rows until the window ends. Whoever comes meanwhile may end it earlier."""
        with contextlib.suppress(TimeoutError):
            while 0 < self._waiting.rows < self.config.max_batch_rows and not self._draining:
                left = self._formation.window_end(self._waiting, self.config.window_seconds) - self._clock()
                if left <= 0:
                    return
                self._changed.clear()
                await asyncio.wait_for(self._changed.wait(), left)

    async def _work_off(self) -> None:
        """Runs one batch after another. As many do so as there are instances; one at a time forms the next batch."""
        while True:
            async with self._one_forms:
                await self._until(lambda: self._waiting.rows > 0 or self._is_over())
                if self._is_over():
                    return
                await self._fill_window()
                try:
                    instance = await self._instances.take()
                except NoneInService as error:
                    self._abandon("failed", error)
                    continue
                turn, batch = Turn(instance, self.config.max_batch_rows), list[Slice]()
                try:
                    batch = self._gather(turn)
                finally:
                    if not batch:
                        self._instances.give(instance)
            # Nothing to run though rows wait: their calls were cancelled this very moment; let them leave.
            await (self._execution.run(batch, turn) if batch else asyncio.sleep(0))

    def _gather(self, turn: Turn) -> list[Slice]:
        """Forms a batch, now and no earlier: the most urgent rows that are still wanted."""
        waiting, formation, whole = self._waiting, self._formation, turn.whole
        self._drop_expired()
        self._drop_expired(formation.margin(waiting.rows, formation.smallest(whole)))
        num_rows = formation.rows(waiting.most_urgent(), self._clock(), whole)
        self._drop_expired(formation.margin(waiting.rows, num_rows))
        now, under_way = self._clock(), self._execution.parts
        taken = dict.fromkeys(waiting.take(whole))
        under_way |= taken
        batch, others = formation.share(list(taken), num_rows, whole)
        turn.cut_short = bool(others)
        waiting.put_back(others)
        for part in taken:
            del under_way[part]
        under_way |= dict.fromkeys(batch)
        for part in batch:
            self._observer.waited(now - part.job.arrived, part.num_rows)
        if batch:
            full = sum(part.num_rows for part in batch) == whole
            self._observer.formed("full" if full else "window" if self.config.window_seconds else "free")
        self._tell_queue()
        return batch

    def _abandon(self, reason: str, error: Exception) -> None:
        """Nobody will run what is under way or waits."""
        for part in list(self._execution.parts):
            self._execution.settle(part, reason)
        for job in list(self._jobs):
            self._fail(job, error, reason)

    def _drop_expired(self, margin: float = 0.0) -> None:
        for job in self._waiting.pop_expired(self._clock() + margin):
            self._expire(job)

    def _expire(self, job: Job) -> None:
        left = job.deadline - self._clock()
        milliseconds = f"{abs(left) * 1e3:.0f} ms"
        why = f"passed {milliseconds} ago" if left <= 0 else f"in {milliseconds} could not be met"
        self._fail(job, DeadlineExceeded(f"the deadline {why}"), "expired")

    def _drop(self, job: Job, reason: str) -> None:
        if num_rows := self._waiting.leave(job):
            self._observer.dropped(reason, num_rows)
        self._tell_queue()

    def _fail(self, job: Job, error: Exception, reason: str) -> None:
        """Resolves a job with an error; rows of it that still wait will not run."""
        self._drop(job, reason)
        if not job.future.done():
            job.future.set_exception(error)

    def _tell_queue(self) -> None:
        admission = self._admission
        self._observer.queued(self._waiting.rows + admission.rows, self._waiting.size_bytes + admission.size_bytes)
