"""The instances that run batches: who runs the next one, who is out of service, and how one comes back.

An instance is one engine thread with sessions of its own; a device has one or several. The contract, each point of
which has a test in tests/service/scheduling/test_instances.py:

 1. An instance runs one batch at a time. Who asks for one and finds none free waits, in the order of asking; a batch
    that is run again goes before those that have not run.
 2. Of several that are free the least loaded goes first: of the device that runs the fewest batches, then the one that
    has been free for longest.
 3. What is out of service gets no batch. It comes back once it is proven (`prove`): tried after a second, then after
    twice as long each time, a minute at most. Who has served for a minute since begins at a second again.
 4. A batch that fails or is stuck never takes the last one out of service. Its proof does: then nobody waits any more,
    and who asks is told so at once, until one is back.

Knows asyncio alone. One event loop, not thread-safe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from latentserve.errors import Unavailable
from service.scheduling.instance import FIRST_PAUSE
from service.scheduling.instance import Instance as Instance
from service.scheduling.instance import instances_of as instances_of
from service.scheduling.observer import InstanceObserver, Unobserved

log = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds before a further proof of an instance that is out, at most."""
STEADY_SECONDS = 60.0
"""After so long in service an outage is a new one."""
EXAMINE_SECONDS = 10.0
"""At most so often is an instance proven because requests fail on it: bad requests must not keep it busy."""


class NoneInService(Unavailable):
    """No instance is in service."""


Prove = Callable[[Instance], Awaitable[None]]
"""Whether an instance gives the right answers: golden rows of every model. Raises if it does not."""


class Instances:
    """Gives out instances, one batch at a time.

    Args:
        every: all of them; None: a single one.
        prove: whether one that is out may come back; None: it may.
        observer: is told what happens.
        clock: seconds, monotonic.
        sleep: waits for seconds.

    Attributes:
        every: all of them, in service or not.
    """

    def __init__(
        self,
        every: Sequence[Instance] | None = None,
        prove: Prove | None = None,
        observer: InstanceObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self.every = list(every or [Instance()])
        self._prove = prove
        self._observer = observer or Unobserved()
        self._clock = clock
        self._sleep = sleep
        self._holding: deque[asyncio.Future[Instance]] = deque()  # of those who hold one that is suspect
        self._waiting: deque[asyncio.Future[Instance]] = deque()
        self._wanted: dict[Instance, asyncio.Future[Instance]] = {}  # one that somebody wants, and no other
        self._coming_back: set[asyncio.Task[None]] = set()

    @property
    def num_in_service(self) -> int:
        """How many are in service."""
        return sum(not one.is_out for one in self.every)

    def has_other(self, than: Instance) -> bool:
        """Whether another one is in service and above suspicion."""
        return any(one is not than and one.state in ("free", "busy") for one in self.every)

    def well(self, stuck_seconds: float) -> bool:
        """Whether one is in service that has not been busy with one batch for longer."""
        now = self._clock()
        return any(not one.is_out and (one.batch is None or now - one.since <= stuck_seconds) for one in self.every)

    async def take(self, again: bool = False, holds: bool = False) -> Instance:
        """The least loaded instance that is free; waits for one. Whoever has it gives it back.

        Args:
            again: for a batch that has run already: before those that have not.
            holds: whoever asks holds one that is suspect.

        Raises:
            NoneInService: all are out; for those who hold one: or suspect, for they would wait for each other.
        """
        if free := [one for one in self.every if one.state == "free"]:
            return self._begin(min(free, key=self._load))
        if self._none_for(holds):
            raise NoneInService("no device is in service, ask another server")
        future = asyncio.get_running_loop().create_future()
        if holds:
            self._holding.append(future)
        elif again:
            self._waiting.appendleft(future)
        else:
            self._waiting.append(future)
        return await self._handed(future)

    async def hold(self, one: Instance) -> bool:
        """Waits for this one to be free and keeps batches from it until it is given back; False if it is out."""
        if one.is_out:
            return False
        if one.state == "free":
            self._begin(one)
            return True
        future = self._wanted[one] = asyncio.get_running_loop().create_future()
        try:
            await self._handed(future)
        except NoneInService:
            return False
        return True

    def give(self, one: Instance) -> None:
        """It may be taken again, unless it went out of service meanwhile."""
        if one.state == "free":
            return
        one.batch = None
        if not one.is_out:
            one.state, one.since = "free", self._clock()
            self._hand_over(one)

    def begin_batch(self, one: Instance, task: asyncio.Task[Any]) -> None:
        """The task runs a batch on it."""
        one.since, one.batch = self._clock(), task

    def end_batch(self, one: Instance, seconds: float, well: bool) -> None:
        """The batch took so long."""
        one.batch = None
        self._observer.ran(one, seconds, well)

    def suspect(self, one: Instance) -> None:
        """What it ran failed: it is held until another has run the same."""
        one.state = "suspect"
        self._tell_whom_nobody_serves()

    def clear(self, one: Instance) -> None:
        """Nobody else can run the same: who has it keeps it."""
        if one.state == "suspect":
            one.state = "busy"

    def take_out(self, one: Instance, why: str) -> None:
        """From now on it gets no batch; it comes back by itself once it is proven."""
        if one.is_out:
            return
        now = self._clock()
        if now - one.returned > STEADY_SECONDS:
            one.pause = FIRST_PAUSE
        one.state, one.since = "out", now
        log.error("%s is out of service (%s), %d of %d are in", one.name, why, self.num_in_service, len(self.every))
        self._observer.out(one, why)
        if (future := self._wanted.pop(one, None)) and not future.done():
            future.set_exception(NoneInService(f"{one.name} is out of service"))
        task = asyncio.get_running_loop().create_task(self._bring_back(one), name=f"{one.name} comes back")
        self._coming_back.add(task)
        task.add_done_callback(self._coming_back.discard)
        self._tell_whom_nobody_serves()

    def take_out_stuck(self, stuck_seconds: float) -> None:
        """Those whose batch has been running for longer, but not the last: their batches are run by others."""
        now = self._clock()
        for one in self.every:
            is_late = one.state == "busy" and one.batch is not None and now - one.since > stuck_seconds
            if is_late and self.num_in_service > 1:
                batch = one.batch
                self.take_out(one, "stuck")
                assert batch is not None
                batch.cancel()

    async def examine(self, one: Instance) -> None:
        """Requests fail on it, and nobody else could run them: it proves itself, or it is out. Not too often."""
        now = self._clock()
        if one.is_out or self._prove is None or now - one.examined < EXAMINE_SECONDS:
            return
        one.examined = one.since = now
        one.state, one.batch = "suspect", asyncio.current_task()
        self._tell_whom_nobody_serves()
        try:
            await self._prove(one)
        except Exception as error:
            log.warning("%s does not prove itself: %s", one.name, error)
            self.take_out(one, "failed")
        else:
            one.state = "busy"

    def close(self) -> None:
        """Nobody comes back any more."""
        for task in self._coming_back:
            task.cancel()

    def _load(self, one: Instance) -> tuple[int, float, int]:
        of_device = sum(other.state != "free" for other in self.every if other.device == one.device)
        return of_device, one.since, one.number

    def _begin(self, one: Instance) -> Instance:
        one.state, one.since, one.batch = "busy", self._clock(), None
        return one

    def _hand_over(self, one: Instance) -> None:
        """To who waits for this one, else to who waits for any."""
        wanted = self._wanted.pop(one, None)
        for queue in (deque([wanted] if wanted else []), self._holding, self._waiting):
            while queue:
                future = queue.popleft()
                if not future.done():  # who waited may have been cancelled
                    future.set_result(self._begin(one))
                    return

    async def _handed(self, future: asyncio.Future[Instance]) -> Instance:
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:  # handed over this very moment
                self.give(future.result())
            raise

    def _none_for(self, holds: bool) -> bool:
        kept = ("free", "busy") if holds else ("free", "busy", "suspect")
        return not any(one.state in kept for one in self.every)

    def _tell_whom_nobody_serves(self) -> None:
        for queue, holds in ((self._holding, True), (self._waiting, False)):
            while self._none_for(holds) and queue:
                future = queue.popleft()
                if not future.done():
                    future.set_exception(NoneInService("no device is in service, ask another server"))

    async def _bring_back(self, one: Instance) -> None:
        while True:
            await self._sleep(one.pause)
            one.pause = min(2 * one.pause, LONGEST_PAUSE)
            try:
                if self._prove is not None:
                    await self._prove(one)
            except Exception as error:
                log.warning("%s stays out of service, tried again in %g s: %s", one.name, one.pause, error)
            else:
                break
        one.returned = self._clock()
        one.state, one.batch = "busy", None
        self.give(one)
        log.info("%s is back in service", one.name)
        self._observer.back(one)
