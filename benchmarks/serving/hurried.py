"""What clients with short deadlines cost the others: simulated, on a clock of its own, with engines of every kind.

    python -m benchmarks.serving.hurried        a few seconds; prints a table

Patient clients fill every batch; beside them four send one row each, again and again, with short deadlines. An engine
takes `overhead + per_row * rows`; times are in those of a whole batch.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentserve.errors import LatentserveError
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.instances import Instances
from service.scheduling.queue import Piece, Tensors

WANTS = frozenset({"out"})
WHOLE = 16
"""Rows of a whole batch."""
PATIENT = 3 * WHOLE
"""Clients with all the time in the world: always more than a batch holds."""
STEPS = 4
"""In which the clock goes on while a batch runs."""
OVERHEADS = (0.0, 0.2, 0.5, 0.9, 1.0)
"""Of a whole batch's time."""
GIVEN = (0.3, 0.6, 1.0, 1.3, 1.9, 3.0)


@dataclass(frozen=True)
class Hurried:
    """A client who asks again and again, whatever became of the last time.

    Attributes:
        timeout: time for an answer, in times that a whole batch takes.
        num_rows: of each request.
        priority: of each request.
        pause: between an answer and the next request, in the same times.
    """

    timeout: float
    num_rows: int = 1
    priority: int = 0
    pause: float = 0.0


@dataclass
class Served:
    """Rows that each kind of client had answered in time, and those that the hurried requested."""

    patient: int = 0
    hurried: int = 0
    asked: int = 0


class Clock:
    """Seconds that the engine alone makes pass."""

    now = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now


class Engine:
    """Takes `overhead + per_row * rows` seconds on a clock, answers rows with themselves."""

    def __init__(self, overhead: float, per_row: float, clock: Clock) -> None:
        self._overhead, self._per_row, self._clock = overhead, per_row, clock

    def seconds(self, num_rows: int) -> float:
        """Of a batch."""
        return self._overhead + self._per_row * num_rows

    async def __call__(self, pieces: Sequence[Piece]) -> Sequence[Tensors]:
        """Runs a batch; clients come while it does."""
        seconds = self.seconds(sum(len(piece.rows) for piece in pieces))
        for _ in range(STEPS):
            await _others()
            self._clock.now += seconds / STEPS
        await _others()
        return [{"out": piece.rows} for piece in pieces]


class Nobody:
    """An observer who does not listen."""

    def queued(self, rows: int, size_bytes: int) -> None:
        """See `service.scheduling.observer.Observer`; the others, too."""

    def ran(self, rows: int) -> None:
        """..."""

    def dropped(self, reason: str, rows: int) -> None:
        """..."""

    def waited(self, seconds: float, rows: int) -> None:
        """..."""

    def formed(self, why: str) -> None:
        """..."""

    def executed(self, rows: int, dead_rows: int, seconds: float) -> None:
        """..."""


async def simulate(overhead: float, per_row: float, hurried: Sequence[Hurried], batches: int) -> Served:
    """A server that is busy for so many whole batches."""
    clock, served = Clock(), Served()
    engine = Engine(overhead, per_row, clock)
    queue = BatchQueue([engine], QueueConfig(max_batch_rows=WHOLE), Instances(), Nobody(), clock)
    server = asyncio.create_task(queue.run())
    whole = engine.seconds(WHOLE)

    async def patient() -> None:
        while True:
            await queue.submit(np.zeros((1, 1), np.uint8), WANTS)
            served.patient += 1

    clients = [asyncio.create_task(patient()) for _ in range(PATIENT)]
    clients += [asyncio.create_task(_hurry(one, queue, clock, whole, served)) for one in hurried]
    while clock.now < batches * whole:
        await asyncio.sleep(0)
    queue.drain()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    await server
    return served


async def _hurry(client: Hurried, queue: BatchQueue, clock: Clock, whole: float, served: Served) -> None:
    rows = np.zeros((client.num_rows, 1), np.uint8)
    while True:
        deadline = clock.now + client.timeout * whole
        served.asked += client.num_rows
        try:
            await queue.submit(rows, WANTS, deadline, client.priority)
            served.hurried += client.num_rows if clock.now <= deadline else 0
        except LatentserveError:
            await asyncio.sleep(0)
        until = clock.now + client.pause * whole
        while clock.now < until:
            await asyncio.sleep(0)


async def _others() -> None:
    """Lets clients whose answers have come ask again."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def main(batches: int = 200) -> int:
    """Prints what the patient keep, and what of the hurried is answered, both in per cent."""
    print(f"four clients in a hurry beside {PATIENT} patient ones, {WHOLE} rows a batch, {batches} batches' time")
    print("patient rows kept / hurried rows answered in time, %; rows: overhead of a whole batch; columns: time given")
    print("      " + "".join(f"{given:>12g}" for given in GIVEN))
    least = 1.0
    for overhead in OVERHEADS:
        per_row = (1 - overhead) / WHOLE
        alone = asyncio.run(simulate(overhead, per_row, [], batches))
        cells = []
        for given in GIVEN:
            hurried = [Hurried(given, pause=pause) for pause in (0.0, 0.3, 0.6, 0.9)]
            beside = asyncio.run(simulate(overhead, per_row, hurried, batches))
            kept = beside.patient / alone.patient
            least = min(least, kept)
            cells.append(f"{kept * 100:.0f} / {beside.hurried / beside.asked * 100:.0f}")
        print(f"{overhead:6g}" + "".join(f"{cell:>12}" for cell in cells))
    print(f"least kept: {least * 100:.0f} %")
    return int(least < 0.5)


if __name__ == "__main__":
    sys.exit(main())
