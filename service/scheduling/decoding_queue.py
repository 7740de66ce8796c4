"""The queue before the threads that decode: whose files are decoded when, and whose not at all.

The contract, each point of which has a test in tests/service/scheduling/test_decoding_queue.py:

 1. As many units are at work as there are CPUs. The next one is picked when one of them is done, no earlier: the most
    urgent files by the order in which rows run (`queue`): priority, then deadline, then arrival. Requests that are
    equally urgent take turns, unit by unit: one of a single file does not wait for one of a thousand.
 2. A unit is a few files of one request, and one alone if it is large. What is more urgent than all that are at work
    does not wait for one of them to end: there is one thread more than CPUs for it.
 3. Files whose client has cancelled, whose deadline has passed or of whose request another one is broken are not
    decoded. While others wait, neither are those of a request that could not be decoded in time at the pace learned.
 4. Bytes and pixels that wait or are at work are bounded. Over it `room` raises Overloaded at once, with a hint when
    to retry. Requests of low priority are admitted only while less than half is taken.
 5. Each request's future is resolved exactly once; what it waited for is given back then.

Knows asyncio and threads: no files, no gRPC, no ONNX Runtime, no Prometheus. One event loop, not thread-safe.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentserve.cpus import available_cpus
from latentserve.errors import DeadlineExceeded, Overloaded, Unavailable
from service.scheduling.admission import lets_in
from service.scheduling.pace import Pace
from service.scheduling.queue import Part, PriorityQueue

UNIT_ITEMS = 8
"""Files of a unit at most: enough to hide the cost of handing them over."""
UNIT_WEIGHT = 1_000_000
"""Pixels of a unit, beyond its first file: 12 ms of a JPEG (`benchmarks.decoding.cost`)."""
ITEM_WEIGHT = 5_000
"""What a file costs beside its pixels, in pixels: an 8 x 8 PNG takes 50 us, a pixel of a JPEG 12 ns (same place)."""


@dataclass(frozen=True)
class DecodingConfig:
    """What may wait to be decoded or be decoded, of all models together.

    Attributes:
        max_bytes: of the files.
        max_pixels: of the images.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 2_000_000_000


@dataclass(eq=False)
class Files:
    """Files of one request that wait or are at work.

    Attributes:
        work: does one, by its place.
        weights: of each, in pixels.
        deadline: on the clock of the queue.
        priority: larger goes first.
        arrived: on that clock.
        future: resolved when the last one is done.
        num_rows: how many there are.
        counted: whether they are reported when they are done.
        taken: how many have gone to work.
        place: among the arrivals.
        num_units: at work now.
    """

    work: Callable[[int], Any] | None
    weights: Sequence[int]
    deadline: float
    priority: int
    arrived: float
    future: asyncio.Future[None]
    num_rows: int
    counted: bool = True
    taken: int = 0
    place: int = 0
    num_units: int = 0

    row_bytes = 0

    @property
    def waiting(self) -> int:
        """How many have not gone to work; none once the future is resolved."""
        return 0 if self.future.done() else self.num_rows - self.taken

    @property
    def urgency(self) -> tuple[int, float]:
        """Smaller goes first."""
        return -self.priority, self.deadline

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for them any more."""
        future = self.future
        return future.cancelled() or (future.done() and isinstance(future.exception(), DeadlineExceeded))

    def let_go(self) -> None:
        """The files' bytes go with it."""
        self.work = None


class DecodingQueue:
    """Files of all models wait in it for the threads that decode.

    Args:
        pool: the threads, one more than CPUs.
        config: bounds.
        num_cpus: units at work at once, but for one that is more urgent than they are.
        decoded: called with how many files were done, and of how many of them nobody waited for any more.
        clock: seconds, monotonic; deadlines are on this clock.

    Attributes:
        size_bytes: of files that wait or are at work.
        pixels: of them.
    """

    def __init__(
        self,
        pool: Executor,
        config: DecodingConfig = DecodingConfig(),
        num_cpus: int = 0,
        decoded: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._config = config
        self._num_cpus = num_cpus or available_cpus()
        self._decoded = decoded
        self._clock = clock
        self._waiting = PriorityQueue[Files]()
        self._pace = Pace()
        self._at_work: list[Files] = []  # once for each of their units
        self._weight = 0  # of all that waits or is at work
        self.size_bytes = 0
        self.pixels = 0

    @contextmanager
    def room(self, size_bytes: int, pixels: int, priority: int) -> Iterator[None]:
        """Keeps room for files within a `with` block. Raises Overloaded if there is none."""
        config = self._config
        for unit, held, more, most in (
            ("bytes", self.size_bytes, size_bytes, config.max_bytes),
            ("pixels", self.pixels, pixels, config.max_pixels),
        ):
            if more and (held + more > most or not lets_in(priority, held / most)):
                low = ", of low priority" if held + more <= most else ""
                after = self.backlog_seconds() or 1.0
                raise Overloaded(
                    f"too much is to be decoded: {held} of {most} {unit} wait, {more} came{low}",
                    retry_after_seconds=0.0 if more > most else after,  # it would never fit
                )
        self.size_bytes += size_bytes
        self.pixels += pixels
        try:
            yield
        finally:
            self.size_bytes -= size_bytes
            self.pixels -= pixels

    async def take(
        self,
        work: Callable[[int], Any],
        weights: Sequence[int],
        deadline: float = math.inf,
        priority: int = 0,
        counted: bool = True,
    ) -> None:
        """Does `work(i)` for each weight i, in threads; returns when all are done.

        Args:
            work: decodes a file, or does whatever else the event loop should not.
            weights: in pixels.
            deadline: see `BatchQueue.submit`.
            priority: see there.
            counted: whether these are files that are decoded, of which `decoded` is to be told.

        Raises:
            DeadlineExceeded: the deadline passed before the last one was begun, or would have.
            Exception: what `work` raised first; nothing more of this is begun then.
        """
        future = asyncio.get_running_loop().create_future()
        files = Files(work, weights, deadline, priority, self._clock(), future, len(weights), counted)
        self._waiting.add(files)
        self._weight += sum(weights)
        self._pick()
        try:
            await future
        finally:
            self._leave(files)

    def backlog_seconds(self) -> float:
        """Until all that waits or is at work will have been done; 0 as long as no pace is known."""
        return self._seconds(self._weight) if self._pace.known else 0.0

    def shutdown(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _pick(self) -> None:
        """Begins with the most urgent files that are still wanted, as long as there is a thread for them."""
        while True:
            for files in self._waiting.pop_expired(self._clock()):
                self._expire(files)
            urgent = self._waiting.most_urgent()
            if urgent is None or not self._has_thread(urgent):
                return
            if self._is_hopeless(urgent):
                self._expire(urgent)
            else:
                self._start(self._waiting.take(_unit(urgent))[0])
                self._waiting.let_pass(urgent)

    def _has_thread(self, files: Files) -> bool:
        left = self._num_cpus - len(self._at_work)
        return left > 0 or (left == 0 and all(files.urgency < other.urgency for other in self._at_work))

    def _is_hopeless(self, files: Files) -> bool:
        """Whether it could not be done in time even with all threads, while others wait for them."""
        if files.deadline == math.inf or not self._pace.known or self._waiting.rows <= files.waiting:
            return False
        return self._clock() + self._seconds(sum(files.weights[files.taken :])) > files.deadline

    def _seconds(self, weight: int) -> float:
        return self._pace.seconds(weight) / self._num_cpus

    def _start(self, unit: Part[Files]) -> None:
        files, start, stop = unit
        assert files.work is not None
        self._at_work.append(files)
        files.num_units += 1
        loop, places = asyncio.get_running_loop(), range(start, stop)
        done = loop.run_in_executor(self._pool, _do, files.future, files.work, places, self._clock)
        done.add_done_callback(partial(self._finish, unit))

    def _finish(self, unit: Part[Files], done: asyncio.Future[tuple[int, float]]) -> None:
        files, start, stop = unit
        self._at_work.remove(files)
        files.num_units -= 1
        self._weight -= sum(files.weights[start:stop])
        error = Unavailable("the server stopped before files were decoded") if done.cancelled() else done.exception()
        if error is None:
            num_done, seconds = done.result()
            if num_done:
                self._pace.learn(sum(files.weights[start : start + num_done]), seconds)
            if self._decoded is not None and files.counted:
                self._decoded(num_done, num_done if files.is_unwanted else 0)
        if not files.future.done():
            if error is not None:
                files.future.set_exception(error)
            elif files.waiting == 0 and files.num_units == 0:
                files.future.set_result(None)
        self._pick()

    def _expire(self, files: Files) -> None:
        left = files.deadline - self._clock()
        why = f"passed {-left * 1e3:.0f} ms ago" if left <= 0 else f"in {left * 1e3:.0f} ms could not be met"
        self._leave(files)
        files.future.set_exception(DeadlineExceeded(f"the deadline {why}, files were still to be decoded"))

    def _leave(self, files: Files) -> None:
        self._weight -= sum(files.weights[files.taken :])
        self._waiting.leave(files)


def _unit(files: Files) -> int:
    """How many files the next unit of these holds."""
    num, weight = 0, 0
    for one in files.weights[files.taken : files.taken + UNIT_ITEMS]:
        weight += one
        if num and weight > UNIT_WEIGHT:
            break
        num += 1
    return num


def _do(
    future: asyncio.Future[None], work: Callable[[int], Any], places: range, clock: Callable[[], float]
) -> tuple[int, float]:
    """In a thread: one file after another, as long as somebody waits. Returns how many, and the seconds they took."""
    began, num_done = clock(), 0
    for place in places:
        if future.done():
            break
        work(place)
        num_done += 1
    return num_done, clock() - began
