"""Batches under way: each on an instance, and what fails there run again until what fails is one request alone.

A batch that fails, or is stuck, is run again whole on another instance if one is in service. If it runs there, the
first one is to blame and goes out of service (`instances`); if it fails there, too, the rows are: then its halves are
run in the same way. Rows whose client has left are dropped before they run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from latentserve.errors import InternalError
from service.scheduling.formation import BatchFormation
from service.scheduling.instances import Instance, Instances, NoneInService
from service.scheduling.observer import Observer
from service.scheduling.queue import Execute, Job, Piece, Slice, Tensors, checked

Fail = Callable[[Job, Exception, str], None]
"""Resolves a job with an error, and why it was dropped."""


class Stuck(InternalError):
    """A batch took so long that its instance was given up."""


class Turn:
    """What a batch holds while it is under way.

    Attributes:
        instance: that runs it; another one after it failed; None if it was stuck there and there is no other.
        whole: rows of a whole batch when it was formed.
        cut_short: rows were put back when it was formed.
        failed_alone: a request failed on this instance, and on all others that were asked.
    """

    def __init__(self, instance: Instance, whole: int) -> None:
        self.instance: Instance | None = instance
        self.whole = whole
        self.cut_short = self.failed_alone = False


class Execution:
    """The batches of one queue that are under way.

    Args:
        executes: runs a batch, one for each instance.
        instances: given back when a batch is done.
        formation: learns from every batch.
        observer: is told what happens.
        fail: resolves a job with an error.
        expire: resolves a job whose deadline has passed.
        clock: seconds, monotonic.

    Attributes:
        parts: of requests, in the batches that are under way.
    """

    def __init__(
        self,
        executes: Sequence[Execute],
        instances: Instances,
        formation: BatchFormation,
        observer: Observer,
        fail: Fail,
        expire: Callable[[Job], None],
        clock: Callable[[], float],
    ) -> None:
        self._executes = executes
        self._instances = instances
        self._formation = formation
        self._observer = observer
        self._fail = fail
        self._expire = expire
        self._clock = clock
        self.parts: dict[Slice, None] = {}

    async def run(self, batch: list[Slice], turn: Turn) -> None:
        """Runs a batch until each part of it is settled, then gives its instance back."""
        try:
            await self._run(batch, turn)
            if turn.failed_alone and turn.instance is not None:
                await self._instances.examine(turn.instance)
        finally:
            if turn.instance is not None:
                self._instances.give(turn.instance)

    def settle(self, part: Slice, reason: str = "") -> None:
        """What has become of a part of a batch: it ran, or for that reason it did not. Counted once."""
        if part not in self.parts:
            return
        del self.parts[part]
        if reason:
            self._observer.dropped(reason, part.num_rows)
        else:
            self._observer.ran(part.num_rows)

    async def _run(self, batch: list[Slice], turn: Turn) -> None:
        if not (batch := self._still_wanted(batch)):
            return
        error = await self._tried(batch, turn) if turn.instance else Stuck("a batch was stuck")
        if error is not None and (turn.instance is None or self._instances.has_other(turn.instance)):
            error = await self._tried_elsewhere(batch, turn, error)
        if error is None:
            return
        if len(batch) > 1 and turn.instance is not None:
            await self._run(batch[: len(batch) // 2], turn)
            await self._run(batch[len(batch) // 2 :], turn)
            return
        turn.failed_alone = True
        for part in batch:
            self.settle(part, "failed")
            self._fail(part.job, error, "failed")

    async def _tried(self, batch: list[Slice], turn: Turn) -> Exception | None:
        """Why the batch did not run on the instance; None if it did."""
        instance, task = turn.instance, asyncio.current_task()
        assert instance is not None
        assert task is not None
        pieces = [Piece(job.rows[start:stop], job.wants) for job, start, stop in batch if job.rows is not None]
        error: Exception | None = None
        results: Sequence[Tensors] = ()
        started = self._clock()
        try:
            self._instances.begin_batch(instance, task)
            results = checked(pieces, await self._executes[instance.number](pieces))
        except asyncio.CancelledError:
            if not instance.is_out:
                raise
            task.uncancel()
            turn.instance, error = None, Stuck("a batch was stuck")
        except Exception as raised:
            error = raised
        seconds = self._clock() - started
        self._instances.end_batch(instance, seconds, error is None)
        num_rows = sum(len(piece.rows) for piece in pieces)
        dead = sum(part.num_rows for part in batch if part.job.future.done() or part.job.deadline <= started + seconds)
        self._observer.executed(num_rows, dead, seconds)
        if error is None:
            self._formation.learn(num_rows, seconds, turn.whole, turn.cut_short)
            for part, tensors in zip(batch, results, strict=True):
                self.settle(part)
                part.job.deliver(part.start, tensors)
        return error

    async def _tried_elsewhere(self, batch: list[Slice], turn: Turn, error: Exception) -> Exception | None:
        """As `_tried`, on another instance, which settles who was to blame."""
        failed, found = turn.instance, None
        if failed is not None:
            self._instances.suspect(failed)
        try:
            turn.instance = await self._instances.take(again=True, holds=failed is not None)
            if batch := self._still_wanted(batch):
                found = await self._tried(batch, turn)
            elif failed is not None:  # nobody is left to try it for
                await self._instances.examine(failed)
        except NoneInService as none:
            if failed is None:
                return none
            self._instances.clear(failed)
            return error
        except BaseException:
            if failed is not None and turn.instance is not failed:
                self._instances.give(failed)
            raise
        if failed is not None:
            if batch and found is None:
                self._instances.take_out(failed, "failed")
            self._instances.give(failed)
        return await self._tried_elsewhere(batch, turn, found) if found and turn.instance is None else found

    def _still_wanted(self, batch: list[Slice]) -> list[Slice]:
        """Without those whose client left after the batch was formed (one that is run again), and counts them."""
        wanted = []
        for part in batch:
            job = part.job
            expired = not job.future.done() and job.deadline <= self._clock()
            if expired:
                self._expire(job)
            if job.future.done():
                self.settle(part, "expired" if expired else "cancelled")
            else:
                wanted.append(part)
        return wanted
