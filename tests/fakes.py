"""Every fake of the suite: a clock, an engine, an observer, what answers the messages of a stream."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from latentserve.errors import ModelNotFound, Overloaded
from latentserve.v1 import embedding_pb2 as pb
from service.api.inference import Context
from service.scheduling.queue import Piece, Tensors

POISON = 255
"""A row of this value makes the fake engine fail."""


@dataclass
class FakeClock:
    """Seconds that pass only when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeTime(FakeClock):
    """A clock with sleepers: it goes from one waking to the next."""

    _sleepers: list[tuple[float, int, asyncio.Future[None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), future))
        await future

    async def pass_by(self, seconds: float) -> None:
        """Lets so much time go by, and everybody do what is theirs in it."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self.now = end


@dataclass
class TimedEngine:
    """Answers row + 1 under `out` after so long; `broken` it fails, `hung` it does not end."""

    time: FakeTime
    seconds_per_batch: float = 1.0
    seconds_per_row: float = 0.0
    broken: bool = False
    hung: bool = False
    running: int = 0
    most_running: int = 0
    batches: list[list[int]] = field(default_factory=list)
    ran_for_nobody: list[int] = field(default_factory=list)
    gone: Callable[[], set[int]] = set

    async def __call__(self, pieces: Sequence[Piece]) -> Sequence[Tensors]:
        rows = [int(value) for piece in pieces for value in piece.rows[:, 0]]
        self.batches.append(rows)
        self.ran_for_nobody += self.gone() & set(rows)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.time.sleep(1e9 if self.hung else self.seconds_per_batch + self.seconds_per_row * len(rows))
        finally:
            self.running -= 1
        if self.broken or POISON in rows:
            raise RuntimeError("a broken device" if self.broken else "poisoned batch")
        return [{"out": piece.rows + 1} for piece in pieces]

    async def prove(self) -> None:
        """Fails while it is broken or hung."""
        if self.broken or self.hung:
            raise RuntimeError("golden rows come out otherwise")


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass
class FakeEngine:
    """Answers row + 1 under `out`. Holds each batch until `release`, unless it is open."""

    open: bool = True
    batches: list[list[int]] = field(default_factory=list)
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    clock: FakeClock | None = None
    gone: Callable[[], set[int]] = set
    ran_for_nobody: list[int] = field(default_factory=list)
    left: Callable[[], set[int]] = set
    left_meanwhile: int = 0
    num_poisoned: int = 0
    seconds_per_batch: float = 0.0

    async def __call__(self, pieces: Sequence[Piece]) -> Sequence[Tensors]:
        rows = [int(value) for piece in pieces for value in piece.rows[:, 0]]
        self.batches.append(rows)
        self.ran_for_nobody += self.gone() & set(rows)
        if not self.open:
            self._gate.clear()
            await self._gate.wait()
        if self.clock is not None:
            self.clock.now += self.seconds_per_batch
        self.left_meanwhile += len(self.left() & set(rows))
        self.num_poisoned += rows.count(POISON)
        if POISON in rows:
            raise RuntimeError("poisoned batch")
        return [{"out": piece.rows + 1} for piece in pieces]

    def release(self) -> None:
        """Lets the batch that is held go on."""
        self._gate.set()


class FakePool(Executor):
    """Threads that do a unit when a test says so, on the test's own."""

    def __init__(self) -> None:
        self.units: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.units.append((future, partial(work, *args, **more)))
        return future

    def do(self, which: int = 0) -> None:
        """Does one of the units that were begun, the first one unless another is named."""
        future, work = self.units.pop(which)
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)


@dataclass
class FakeObserver:
    """Keeps a ledger of what it was told."""

    rows: int = 0
    size_bytes: int = 0
    nonsense: list[tuple[int, int]] = field(default_factory=list)
    ran_rows: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    executed_rows: int = 0
    dead_rows: int = 0
    waits: list[float] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)

    def queued(self, rows: int, size_bytes: int) -> None:
        self.rows, self.size_bytes = rows, size_bytes
        if rows < 0 or size_bytes < 0:  # kept, for what an observer raises is only logged
            self.nonsense.append((rows, size_bytes))

    def ran(self, rows: int) -> None:
        self.ran_rows += rows

    def dropped(self, reason: str, rows: int) -> None:
        self.drops[reason] += rows

    def waited(self, seconds: float, rows: int) -> None:
        self.waits.append(seconds)

    def formed(self, why: str) -> None:
        self.cuts.append(why)

    def executed(self, rows: int, dead_rows: int, seconds: float) -> None:
        self.executed_rows += rows
        self.dead_rows += dead_rows


@dataclass
class FakeAnswers:
    """Answers bytes with themselves, each when it is let go. Keeps what was begun, cancelled and written."""

    begun: list[bytes] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    takes_answers: asyncio.Event = field(default_factory=asyncio.Event)
    _gates: dict[bytes, asyncio.Event] = field(default_factory=dict)

    def begin(self, message: bytes) -> Coroutine[Any, Any, bytes]:
        if message == b"poison":
            raise ValueError("no message")
        self.begun.append(message)
        self._gates[message] = asyncio.Event()
        return self._answer(message)

    async def _answer(self, message: bytes) -> bytes:
        try:
            await self._gates[message].wait()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        if message == b"broken":
            raise RuntimeError("broken")
        return message

    async def write(self, answer: bytes) -> None:
        await self.takes_answers.wait()
        self.written.append(answer)

    def release(self, *messages: bytes) -> None:
        """Lets these be answered."""
        for message in messages:
            self._gates[message].set()


@dataclass
class FakeScores:
    """Answers messages of ScoreStream when it is open. The model's name says how: `nobody`, `full`, `bug`, or else."""

    answer_bytes: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    deadlines: set[float] = field(default_factory=set)

    async def score(self, message: pb.ScoreStreamRequest, context: Context) -> pb.ScoreStreamResponse:
        self.begun.append(message.id)
        self.deadlines.add(context.deadline)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message.id)
            raise
        name = message.request.model.name
        if name == "nobody":
            raise ModelNotFound("no such model")
        if name == "full":
            raise Overloaded("queue is full", 0.25)
        if name == "bug":
            raise RuntimeError("a bug")
        model = pb.ModelVersion(name=name, embedding_space="x" * self.answer_bytes)
        return pb.ScoreStreamResponse(id=message.id, response=pb.ScoreResponse(model=model))


def rows(*values: int) -> Any:
    """uint16 rows [n, 2], all of a row alike."""
    return np.repeat(np.array(values, np.uint16)[:, None], 2, axis=1)


FOREVER = math.inf
