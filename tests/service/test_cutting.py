"""What callers in a hurry may cost the others: simulated, with engines of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from latentserve.errors import LatentserveError
from service.batching import BatchQueue, QueueConfig
from service.pieces import Piece
from service.waiting import Tensors
from tests.fakes import FakeClock, FakeObserver, rows

WANTS = frozenset({"out"})
WHOLE = 16
PATIENT = 3 * WHOLE
"""Callers with all the time in the world: always more than a batch holds."""
BATCHES = 80
"""Length of a simulation, in whole batches."""
STEPS = 4
"""In which the clock goes on while a batch runs."""


@dataclass(frozen=True)
class Hurried:
    """A caller who asks again and again, whatever became of the last time.

    Attributes:
        gives: time for an answer, in times that a whole batch takes.
        num_rows: of each request.
        priority: of each request.
        pause: between an answer and the next request, in the same times.
    """

    gives: float
    num_rows: int = 1
    priority: int = 0
    pause: float = 0.0


@dataclass
class Served:
    """Rows that each kind of caller had answered."""

    patient: int = 0
    hurried: int = 0


@dataclass(frozen=True)
class Engine:
    """Takes `overhead + per_row * rows` seconds on a clock of its own."""

    overhead: float
    per_row: float
    clock: FakeClock

    def seconds(self, num_rows: int) -> float:
        return self.overhead + self.per_row * num_rows

    async def __call__(self, pieces: Sequence[Piece]) -> Sequence[Tensors]:
        seconds = self.seconds(sum(len(piece.rows) for piece in pieces))
        for _ in range(STEPS):  # callers come while it runs
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.clock.now += seconds / STEPS
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [{"out": piece.rows} for piece in pieces]


async def simulate(overhead: float, per_row: float, hurried: Sequence[Hurried], batches: int = BATCHES) -> Served:
    """A server that is always busy."""
    clock, served = FakeClock(), Served()
    engine = Engine(overhead, per_row, clock)
    queue = BatchQueue(engine, QueueConfig(max_batch_rows=WHOLE), asyncio.Lock(), FakeObserver(), clock)
    server = asyncio.create_task(queue.run())
    whole = engine.seconds(WHOLE)

    async def patient() -> None:
        while True:
            await queue.submit(rows(1), WANTS)
            served.patient += 1

    async def hurry(caller: Hurried) -> None:
        while True:
            try:
                deadline = clock.now + caller.gives * whole
                await queue.submit(rows(*[1] * caller.num_rows), WANTS, deadline, caller.priority)
                served.hurried += caller.num_rows if clock.now <= deadline else 0
            except LatentserveError:
                await asyncio.sleep(0)
            until = clock.now + caller.pause * whole
            while clock.now < until:
                await asyncio.sleep(0)

    callers = [asyncio.create_task(patient()) for _ in range(PATIENT)]
    callers += [asyncio.create_task(hurry(one)) for one in hurried]
    while clock.now < batches * whole:
        await asyncio.sleep(0)
    queue.drain()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await server
    return served


def run(*arguments: Any) -> Served:
    return asyncio.run(asyncio.wait_for(simulate(*arguments), 60))


HURRIED = st.builds(
    Hurried,
    gives=st.floats(0.01, 4.0),
    num_rows=st.integers(1, WHOLE // 4),
    priority=st.sampled_from([-(2**70), -1, 0, 1, 2**70]),
    pause=st.sampled_from([0.0, 0.25, 0.6, 3.0]),
)


@settings(deadline=None, max_examples=60)
@given(
    overhead=st.floats(0, 1),
    per_row=st.floats(0, 0.1),
    hurried=st.lists(HURRIED, min_size=1, max_size=WHOLE // 4).filter(
        lambda callers: sum(one.num_rows for one in callers) <= WHOLE // 4
    ),
)
@example(overhead=0.9, per_row=0.006, hurried=[Hurried(1.9, pause=0.3)] * 4)  # rows cost hardly anything
@example(overhead=1.0, per_row=0.0, hurried=[Hurried(1.2)] * 4)  # rows cost nothing
@example(  # without `SHARE` the patient keep 0.35
    overhead=0.5,
    per_row=0.03,
    hurried=[Hurried(1.276, pause=0.6), Hurried(0.786), Hurried(0.757, pause=0.6), Hurried(1.085, pause=0.95)],
)
@example(  # without `KEPT` they keep 0.02
    overhead=0.001,
    per_row=0.06,
    hurried=[Hurried(0.678), Hurried(0.268, priority=1), Hurried(0.181), Hurried(0.211, pause=0.06)],
)
def test_the_patient_keep_half_of_their_throughput_whatever_others_ask(
    overhead: float, per_row: float, hurried: list[Hurried]
) -> None:
    """Up to a quarter of a batch is in a hurry; in the first batches nothing is known of the engine."""
    if overhead + per_row < 1e-3:
        overhead = 1e-3
    alone, beside = run(overhead, per_row, []), run(overhead, per_row, hurried)
    assert beside.patient >= 0.5 * alone.patient - 2 * WHOLE
