"""Admission to a queue, point by point (the numbers are those of service/scheduling/admission.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentserve.errors import DeadlineExceeded, InvalidInput, LatentserveError, Overloaded, Unavailable
from service.api.inference import Context, Inference
from service.models.decoding import Arriving
from service.models.model import ServedModel
from service.models.repository import Repository
from service.observing.metrics import Metrics
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.instances import Instances
from tests.fakes import FOREVER, FakeClock, FakeEngine, FakeObserver, rows

WANTS = frozenset({"out"})


class Bench:
    """A queue with everything around it faked, its engine held unless it is opened."""

    def __init__(self, max_rows: int = 4, max_bytes: int = 1000) -> None:
        self.clock, self.engine, self.observer = FakeClock(), FakeEngine(open=False), FakeObserver()
        config = QueueConfig(max_batch_rows=2, max_queue_rows=max_rows, max_queue_bytes=max_bytes)
        self.queue = BatchQueue([self.engine], config, Instances(), self.observer, self.clock)
        manifest = SimpleNamespace(name="m", version=1, outputs={"out": None})
        self.model = cast(ServedModel, SimpleNamespace(manifest=manifest, monitor=None, queues={"input": self.queue}))
        self.inference = Inference(cast(Repository, None), Metrics())
        self.server = asyncio.create_task(self.queue.run())
        self.read: list[int] = []

    def ask(
        self, value: int, num: int = 1, deadline: float = FOREVER, priority: int = 0, **how: Any
    ) -> asyncio.Task[Any]:
        """A call of `num` rows, which are read once `gate` is open, and then are what `found` says, if it says so."""

        async def read(deadline: float, priority: int) -> Any:
            self.read.append(value)
            if gate := how.get("gate"):
                await gate.wait()
            if isinstance(found := how.get("found"), Exception):
                raise found
            return rows(*[value] * (num if found is None else found))

        arriving = Arriving(num, rows(*[0] * num).nbytes, read)
        context = Context("Embed", deadline, "m")

        async def tensors() -> Any:
            return (await self.inference.run(self.model, lambda: arriving, {"out"}, priority, context)).tensors

        return asyncio.create_task(tensors())

    async def end(self) -> None:
        self.engine.open = True
        self.engine.release()
        self.queue.drain()
        await asyncio.wait_for(self.server, 5)
        assert (self.observer.rows, self.observer.size_bytes) == (0, 0)
        assert (self.queue._admission.rows, self.queue._admission.size_bytes) == (0, 0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 10))


async def busy(b: Bench) -> asyncio.Task[Any]:
    """The engine is at work and the queue is empty."""
    running = b.ask(0)
    await settle()
    return running


@pytest.mark.parametrize(("bounds", "more"), [({"max_rows": 4}, 1), ({"max_bytes": 4 * rows(0).nbytes}, 1)])
def test_1_a_full_queue_refuses_before_anything_is_read(bounds: dict[str, int], more: int) -> None:
    async def body() -> None:
        b = Bench(**bounds)
        running, gate = await busy(b), asyncio.Event()
        reading, waiting = b.ask(1, 2, gate=gate), b.ask(2, 2)
        await settle()
        b.read.clear()
        for _ in range(100):
            with pytest.raises(Overloaded, match="4 rows|of 16 bytes") as refused:
                await b.ask(3, more)
            assert refused.value.retry_after_seconds > 0
        assert b.read == []
        assert b.observer.drops == {"full": 100 * more}
        assert b.observer.rows == 4  # what is read counts as what waits
        gate.set()
        b.engine.open = True
        b.engine.release()
        await asyncio.gather(running, reading, waiting)
        await b.end()

    run(body())


def test_1_the_hint_is_when_what_is_being_decoded_will_have_been_too() -> None:
    async def body() -> None:
        b = Bench()
        b.queue.backlog = lambda: 25.0
        gate = asyncio.Event()
        b.engine.open = True
        reading = b.ask(1, 4, gate=gate)
        await settle()
        with pytest.raises(Overloaded) as refused:
            await b.ask(2)
        assert refused.value.retry_after_seconds == 25.0
        gate.set()
        await reading
        with pytest.raises(Overloaded) as refused:
            await b.ask(3, 5)
        assert refused.value.retry_after_seconds < 1.0  # nothing is being decoded for this queue
        await b.end()

    run(body())


def test_1_nothing_is_read_while_draining_nor_past_the_deadline() -> None:
    async def body() -> None:
        b = Bench()
        b.clock.now = 5.0
        with pytest.raises(DeadlineExceeded, match="on arrival"):
            await b.ask(1, 2, deadline=5.0)
        b.queue.drain()
        with pytest.raises(Unavailable):
            await b.ask(2, 3)
        assert b.read == []
        assert b.observer.drops == {"expired": 2, "draining": 3}
        await b.end()

    run(body())


def test_2_rows_for_which_room_is_kept_come_in_though_all_the_rest_is_taken() -> None:
    async def body() -> None:
        b = Bench()
        running, gate = await busy(b), asyncio.Event()
        reading, waiting = b.ask(1, 2, gate=gate), b.ask(2, 2)
        await settle()
        gate.set()
        await settle()
        assert b.observer.rows == 4
        b.engine.open = True
        b.engine.release()
        got = await asyncio.gather(running, reading, waiting)
        np.testing.assert_array_equal(got[1]["out"], rows(2, 2))
        await b.end()

    run(body())


def test_2_what_was_let_in_before_the_drain_is_answered_though_its_rows_come_later() -> None:
    async def body() -> None:
        b = Bench()
        b.engine.open = True
        gate = asyncio.Event()
        reading = b.ask(1, gate=gate)
        await settle()
        b.queue.drain()
        await settle()
        assert not b.server.done()
        gate.set()
        np.testing.assert_array_equal((await reading)["out"], rows(2))
        await b.end()

    run(body())


def test_1_rows_that_are_being_read_have_an_age_for_they_wait_too() -> None:
    async def body() -> None:
        b = Bench(max_rows=8)
        b.engine.open = True
        gates = [asyncio.Event(), asyncio.Event()]
        first = b.ask(1, gate=gates[0])
        await settle()
        b.clock.now = 1.0
        second = b.ask(2, gate=gates[1])
        await settle()
        b.clock.now = 4.0
        assert b.queue.oldest_age() == 4.0
        gates[0].set()
        await first
        assert b.queue.oldest_age() == 3.0
        gates[1].set()
        await second
        assert b.queue.oldest_age() == 0.0
        await b.end()

    run(body())


def test_2_more_rows_than_there_is_room_for_are_asked_like_any() -> None:
    async def body() -> None:
        b = Bench()
        running = await busy(b)
        with pytest.raises(Overloaded, match="0 of 4 rows"):
            await b.ask(1, 1, found=5)
        assert b.observer.drops == {"full": 5}
        more = b.ask(2, 1, found=4)
        await settle()
        assert b.observer.rows == 4
        b.engine.open = True
        b.engine.release()
        await asyncio.gather(running, more)
        await b.end()

    run(body())


def test_2_nobody_hangs_whose_rows_come_when_the_queue_has_been_killed() -> None:
    async def body() -> None:
        b = Bench()
        gate = asyncio.Event()
        reading = b.ask(1, 3, gate=gate)
        await settle()
        b.server.cancel()
        await settle()
        gate.set()
        with pytest.raises(Unavailable, match="stopped before"):
            await reading
        assert b.observer.drops == {"draining": 3}
        assert b.observer.rows == 0

    run(body())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidInput("x"), "invalid"),
        (Overloaded("x"), "full"),
        (DeadlineExceeded("x"), "expired"),
        (RuntimeError("x"), "failed"),
    ],
)
def test_3_rows_that_cannot_be_read_are_counted_by_why(error: Exception, reason: str) -> None:
    async def body() -> None:
        b = Bench()
        with pytest.raises(type(error)):
            await b.ask(1, 3, found=error)
        assert b.observer.drops == {reason: 3}
        await b.end()

    run(body())


@pytest.mark.parametrize(("now", "reason"), [(0.0, "cancelled"), (1.0, "expired")])
def test_3_who_leaves_while_his_rows_are_read_is_counted(now: float, reason: str) -> None:
    async def body() -> None:
        b = Bench()
        reading = b.ask(1, 3, deadline=1.0, gate=asyncio.Event())
        await settle()
        assert b.observer.rows == 3
        b.clock.now = now
        reading.cancel()
        await settle()
        assert reading.cancelled()
        assert b.observer.drops == {reason: 3}
        await b.end()

    run(body())


def test_4_callers_of_low_priority_shut_nobody_out() -> None:
    async def body() -> None:
        b = Bench(max_rows=8)
        running = await busy(b)
        low = [b.ask(value, 3, priority=-1) for value in (1, 2)]
        await settle()
        with pytest.raises(Overloaded, match="6 of 8 rows .* of low priority$"):
            await b.ask(3, 1, priority=-1)
        others = [b.ask(4, 1), b.ask(5, 1, priority=1)]
        await settle()
        assert b.observer.rows == 8
        b.engine.open = True
        b.engine.release()
        await asyncio.gather(running, *low, *others)
        await b.end()

    run(body())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 5), st.integers(-1, 1)),
        st.tuples(st.just("urgent"), st.integers(1, 5), st.integers(1, 3)),
        st.tuples(st.just("invalid"), st.integers(1, 5), st.none()),
        st.tuples(st.just("more"), st.integers(1, 5), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.none()),
        st.tuples(st.just("open"), st.integers(0, 30), st.none()),
        st.tuples(st.just("pass"), st.integers(1, 3), st.none()),
        st.tuples(st.just("release"), st.none(), st.none()),
        st.tuples(st.just("drain"), st.none(), st.none()),
        st.tuples(st.just("kill"), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(steps=STEPS)
def test_3_whatever_happens_room_is_given_back_and_every_row_is_in_one_counter(steps: list[Any]) -> None:
    run(_interleave(steps))


async def _interleave(steps: list[Any]) -> None:
    b = Bench(max_rows=12)
    await settle()  # the queue is served from here on
    asked: list[tuple[asyncio.Task[Any], int]] = []
    gates: list[asyncio.Event] = []
    for kind, number, extra in steps:
        gate = asyncio.Event()
        if kind in ("ask", "urgent", "invalid", "more"):
            how: dict[str, dict[str, Any]] = {
                "ask": {"priority": extra},
                "urgent": {"deadline": b.clock.now + (extra or 0)},
                "invalid": {"found": InvalidInput("x")},
                "more": {"found": number + 1},
            }
            asked.append((b.ask(7, number, gate=gate, **how[kind]), number + (kind == "more")))
            gates.append(gate)
        elif kind == "cancel" and asked:
            asked[number % len(asked)][0].cancel()
        elif kind == "open" and gates:
            gates[number % len(gates)].set()
        elif kind == "pass":
            b.clock.now += number
        elif kind == "release":
            b.engine.release()
        elif kind == "drain":
            b.queue.drain()
        elif kind == "kill":
            b.server.cancel()
        await settle()
        assert b.observer.rows <= 12
    for gate in gates:
        gate.set()
    b.engine.open = True
    b.engine.release()
    b.queue.drain()
    got = await asyncio.gather(*(task for task, _ in asked), return_exceptions=True)
    await asyncio.gather(b.server, return_exceptions=True)
    assert all(isinstance(one, (dict, LatentserveError, asyncio.CancelledError)) for one in got)
    admission = b.queue._admission
    assert (admission.rows, admission.size_bytes, b.observer.rows, b.observer.size_bytes) == (0, 0, 0, 0)
    if not {"kill", "more"} & {kind for kind, _, _ in steps}:
        assert b.observer.executed_rows + b.observer.drops.total() == sum(num for _, num in asked)
