"""The scheduler's contract, point by point (the numbers are those of service/scheduling/batching.py)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentserve.errors import DeadlineExceeded, InternalError, InvalidInput, Overloaded, Unavailable
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.instances import Instances
from tests.fakes import FOREVER, POISON, FakeClock, FakeEngine, FakeObserver, rows

WANTS = frozenset({"out"})


@dataclass
class Bench:
    """A queue with everything around it faked."""

    queue: BatchQueue
    engine: FakeEngine
    clock: FakeClock
    observer: FakeObserver
    server: asyncio.Task[None]

    def submit(self, *values: int, deadline: float = FOREVER, priority: int = 0) -> asyncio.Task[Any]:
        return asyncio.create_task(self.queue.submit(rows(*values), WANTS, deadline, priority))


@asynccontextmanager
async def bench(config: QueueConfig | None = None, *, held: bool = False) -> AsyncIterator[Bench]:
    """A running queue; with `held` the engine keeps each batch until it is released."""
    clock, engine, observer = FakeClock(), FakeEngine(open=not held), FakeObserver()
    queue = BatchQueue([engine], config or QueueConfig(max_batch_rows=4), Instances(), observer, clock)
    made = Bench(queue, engine, clock, observer, asyncio.create_task(queue.run()))
    yield made
    engine.open = True
    engine.release()
    queue.drain()
    await asyncio.wait_for(made.server, 5)
    assert observer.nonsense == []


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_1_a_batch_is_cut_when_the_engine_is_free_from_all_that_waits() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(1), b.submit(2, 3), b.submit(4, 5)]
            await settle()
            assert b.engine.batches == [[0]]  # nothing was formed ahead
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.engine.batches == [[0], [1, 2, 3, 4], [5]]

    run(body())


def test_1_a_request_larger_than_a_batch_comes_back_whole() -> None:
    async def body() -> None:
        async with bench() as b:
            got = await b.submit(*range(11))
            np.testing.assert_array_equal(got["out"], rows(*range(1, 12)))
            assert [len(batch) for batch in b.engine.batches] == [4, 4, 3]

    run(body())


def test_1_a_window_starts_at_the_first_arrival_and_ends_when_the_batch_is_full() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=3, window_seconds=60)) as b:
            first = b.submit(1)
            await settle()
            assert b.engine.batches == []  # it waits for company
            await asyncio.wait_for(asyncio.gather(first, b.submit(2), b.submit(3)), 5)
            assert b.engine.batches == [[1, 2, 3]]

    run(body())


def test_1_without_a_window_nothing_waits() -> None:
    async def body() -> None:
        async with bench() as b:
            await asyncio.wait_for(b.submit(1), 5)
            assert b.engine.batches == [[1]]

    run(body())


def test_2_priority_first_then_the_earliest_deadline_then_arrival() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1), held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(1), b.submit(2, deadline=9), b.submit(3, deadline=5), b.submit(4, priority=1)]
            tasks += [b.submit(5)]
            await settle()
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.engine.batches == [[0], [4], [3], [2], [1], [5]]

    run(body())


def test_3_expired_and_cancelled_rows_never_run_and_are_counted() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            expiring, cancelled, kept = b.submit(1, 2, deadline=1.0), b.submit(3), b.submit(4)
            await settle()
            cancelled.cancel()
            b.clock.now = 2.0
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks, kept)
            with pytest.raises(DeadlineExceeded, match="passed 1000 ms ago"):
                await expiring
            assert b.engine.batches == [[0], [4]]
            assert b.observer.drops == {"expired": 2, "cancelled": 1}
            assert b.observer.dead_rows == 0

    run(body())


def test_3_expired_rows_take_no_room_in_a_batch() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=2), held=True) as b:
            running = b.submit(0)
            await settle()
            expiring = [b.submit(value, deadline=1.0) for value in (1, 2)]
            kept = [b.submit(value) for value in (3, 4)]
            await settle()
            b.clock.now = 2.0
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(running, *kept)
            assert b.engine.batches == [[0], [3, 4]]
            got = await asyncio.gather(*expiring, return_exceptions=True)
            assert [type(one) for one in got] == [DeadlineExceeded] * 2

    run(body())


def test_3_under_overload_what_would_expire_inside_the_batch_is_given_up() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 1.0
            await b.submit(*range(8))  # it learns: 8 rows a second
            b.engine.open = False
            running = b.submit(100)
            await settle()
            doomed = [b.submit(value, deadline=b.clock.now + 2.0) for value in range(12)]
            b.clock.now += 1.0  # one second has gone by, one is left; the running batch takes it
            fresh = [b.submit(value, deadline=b.clock.now + 3.0) for value in range(20, 28)]
            await settle()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(running, *doomed, *fresh, return_exceptions=True)
            assert [type(one) for one in got[1:13]] == [DeadlineExceeded] * 12
            assert [type(one) for one in got[13:]] == [dict] * 8
            assert sorted(itertools.chain(*b.engine.batches[2:])) == list(range(20, 28))  # none of the doomed ran
            assert b.observer.dead_rows == 0

    run(body())


def test_3_under_overload_what_a_slow_batch_would_answer_too_late_is_given_up() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 1.0
            await b.submit(*range(8))  # it learns: 8 rows a second
            b.engine.open = False
            running = b.submit(*range(50, 58))
            await settle()
            doomed = [b.submit(value, deadline=b.clock.now + 2.1) for value in range(12)]
            await settle()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(running, *doomed, return_exceptions=True)
            assert [type(one) for one in got[1:]] == [DeadlineExceeded] * 12  # 1.1 s were left for a batch of 1.0 s
            assert len(b.engine.batches) == 2

    run(body())


def test_3_a_batch_fits_into_the_deadlines_it_serves() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 1.0
            await b.submit(*range(8))  # it learns: 8 rows a second
            b.engine.seconds_per_batch = 0.5  # of four rows
            tasks = [b.submit(value, deadline=b.clock.now + 1.0) for value in range(4)]
            await settle()
            assert b.engine.batches[1] == [0, 1, 2, 3]  # four rows take half of the second that was given
            tasks = [b.submit(value, deadline=b.clock.now + 0.5) for value in range(8)]
            await asyncio.gather(*tasks, return_exceptions=True)
            assert len(b.engine.batches[2]) <= 2

    run(body())


def test_3_a_deadline_that_passed_on_arrival_is_refused() -> None:
    async def body() -> None:
        async with bench() as b:
            b.clock.now = 5.0
            with pytest.raises(DeadlineExceeded, match="on arrival"):
                await b.submit(1, deadline=5.0)
            assert b.engine.batches == []

    run(body())


def test_4_cancelling_one_of_four_batch_mates_leaves_three_answers() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            mates = [b.submit(value) for value in (1, 2, 3, 4)]
            await settle()
            assert b.engine.batches == [[1, 2, 3, 4]]  # all four are running
            mates[1].cancel()
            await settle()
            b.engine.release()
            got = await asyncio.gather(*mates, return_exceptions=True)
            assert isinstance(got[1], asyncio.CancelledError)
            for value, answer in zip((1, 3, 4), (got[0], got[2], got[3]), strict=True):
                assert isinstance(answer, dict)
                np.testing.assert_array_equal(answer["out"], rows(value + 1))

    run(body())


def test_3_rows_whose_caller_leaves_or_expires_while_they_run_are_counted_as_dead() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            mates = [b.submit(1), b.submit(2, deadline=1.0), b.submit(3), b.submit(4)]
            await settle()
            assert sorted(b.engine.batches[0]) == [1, 2, 3, 4]
            mates[0].cancel()
            b.clock.now = 1.5
            await settle()
            b.engine.release()
            await asyncio.gather(*mates, return_exceptions=True)
            assert (b.observer.executed_rows, b.observer.dead_rows) == (4, 2)

    run(body())


def test_4_a_caller_who_cancels_as_the_engine_becomes_free_stops_nothing() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            running, cancelled = b.submit(0), b.submit(1, 2, 3, 4, 5)
            await settle()
            b.engine.open = True
            b.engine.release()  # the queue runs on before the caller's own task learns that it was cancelled
            cancelled.cancel()
            await running
            await b.submit(9)
            assert b.observer.rows == 0

    run(body())


def test_4_a_request_that_makes_the_batch_fail_fails_alone() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            mates = [b.submit(value) for value in (1, POISON, 3, 4)]
            await settle()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(*mates, return_exceptions=True)
            assert isinstance(got[1], RuntimeError)
            assert [type(one) for one in got].count(dict) == 3
            assert b.observer.drops == {"failed": 1}

    run(body())


def test_6_the_queue_is_bounded_in_rows_with_a_hint_when_to_come_again() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=2, max_queue_rows=3), held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(1, 2, 3)]
            await settle()
            with pytest.raises(Overloaded, match="3 of 3 rows") as refused:
                await b.submit(4)
            assert refused.value.retry_after_seconds > 0
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.observer.rows == 0
            await b.submit(5)

    run(body())


def test_6_the_queue_is_bounded_in_bytes() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=2, max_queue_bytes=rows(1, 2).nbytes), held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(1, 2)]
            await settle()
            with pytest.raises(Overloaded, match="bytes wait"):
                await b.submit(3)
            assert b.observer.size_bytes == rows(1, 2).nbytes
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.observer.size_bytes == 0

    run(body())


def test_6_work_that_expired_makes_room() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1, max_queue_rows=1), held=True) as b:
            running = b.submit(0)
            await settle()
            expiring = b.submit(1, deadline=1.0)
            await settle()
            b.clock.now = 2.0
            came = b.submit(2)
            await settle()
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(running, came)
            with pytest.raises(DeadlineExceeded):
                await expiring

    run(body())


def test_6_draining_refuses_what_comes_and_answers_what_was_accepted() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            accepted = [b.submit(0), b.submit(1)]
            await settle()
            b.queue.drain()
            with pytest.raises(Unavailable):
                await b.submit(2)
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*accepted)
            await asyncio.wait_for(b.server, 5)

    run(body())


def test_6_nobody_hangs_when_the_server_is_killed() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            tasks = [b.submit(0), b.submit(1, 2, 3, 4, 5)]
            await settle()
            b.server.cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in got] == [Unavailable, Unavailable]
            b.server = asyncio.create_task(asyncio.sleep(0))

    run(body())


def test_7_queues_of_one_device_take_turns() -> None:
    async def body() -> None:
        instances, order, running = Instances(), [], []

        def engine(name: str) -> Any:
            async def execute(pieces: Any) -> Any:
                assert not running, "two batches on one device at once"
                order.append(name)
                running.append(name)
                await asyncio.sleep(0)
                running.clear()
                return [{"out": piece.rows} for piece in pieces]

            return execute

        config = QueueConfig(max_batch_rows=1)
        queues = [BatchQueue([engine(name)], config, instances, FakeObserver()) for name in "ab"]
        servers = [asyncio.create_task(queue.run()) for queue in queues]
        await asyncio.gather(*(queue.submit(rows(i), WANTS) for queue in queues for i in range(4)))
        for queue in queues:
            queue.drain()
        await asyncio.gather(*servers)
        assert sorted(order[:4]) == ["a", "a", "b", "b"]
        assert "aaa" not in "".join(order[:6])

    run(body())


def test_memory_of_callers_who_left_is_given_back() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1), held=True) as b:
            running = b.submit(0)
            await settle()
            for _ in range(1000):
                gone = b.submit(1, deadline=1e9)
                await asyncio.sleep(0)
                gone.cancel()
                await asyncio.sleep(0)
            assert b.observer.rows == 0
            assert b.queue._waiting.num_places() < 200
            b.engine.open = True
            b.engine.release()
            await running

    run(body())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 5)), st.integers(0, 1)),
        st.tuples(st.just("poison"), st.integers(1, 3), st.none(), st.integers(0, 1)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.none(), st.none()),
        st.tuples(st.just("pass"), st.integers(1, 3), st.none(), st.none()),
        st.tuples(st.just("release"), st.none(), st.none(), st.none()),
        st.tuples(st.just("drain"), st.none(), st.none(), st.none()),
        st.tuples(st.just("bug"), st.none(), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(steps=STEPS)
def test_3_4_5_any_interleaving_resolves_every_future_once_and_never_mixes_rows(steps: list[Any]) -> None:
    run(_interleave(steps))


def ledger(b: Bench) -> int:
    """Rows that are accounted for."""
    under_way = sum(part.num_rows for part in b.queue._execution.parts)
    return b.observer.ran_rows + b.observer.drops.total() + b.observer.rows + under_way


def make_buggy(b: Bench) -> list[bool]:
    """Whatever is put into the list ends `run` once, while a batch is formed; who supervises calls it again."""
    bugs: list[bool] = []
    share = b.queue._formation.share

    def buggy(*arguments: Any) -> Any:
        if bugs:
            bugs.pop()
            raise ZeroDivisionError
        return share(*arguments)

    async def supervise() -> None:
        while True:
            with contextlib.suppress(ZeroDivisionError):
                return await b.queue.run()

    b.queue._formation.share = buggy  # type: ignore[method-assign]
    b.server.cancel()
    b.server = asyncio.create_task(supervise())
    return bugs


async def _interleave(steps: list[Any]) -> None:
    sent: list[tuple[asyncio.Task[Any], list[int], bool]] = []
    cancelled: set[int] = set()
    deadlines: dict[int, float] = {}
    async with bench(QueueConfig(max_batch_rows=4, max_queue_rows=12), held=True) as b:
        # Counted by the engine itself, not by the scheduler: rows that ran for callers who had left.
        b.engine.gone = lambda: cancelled | {value for value, until in deadlines.items() if until <= b.clock.now}
        b.engine.left = lambda: cancelled | {value for value, until in deadlines.items() if until <= b.clock.now}
        bugs = make_buggy(b)
        next_value = 1000  # never used twice, and no poison
        for kind, number, deadline, priority in steps:
            if kind in ("submit", "poison"):
                values = list(range(next_value, next_value + number))
                next_value += number
                if kind == "poison":
                    values[-1] = POISON
                until = FOREVER if deadline is None else b.clock.now + deadline
                deadlines |= {value: until for value in values if value != POISON}
                sent.append((b.submit(*values, deadline=until, priority=priority), values, kind == "poison"))
            elif kind == "cancel" and sent:
                task, values, _ = sent[number % len(sent)]
                if task.cancel():
                    cancelled |= set(values) - {POISON}
            elif kind == "pass":
                b.clock.now += number
            elif kind == "release":
                b.engine.release()
            elif kind == "drain":
                b.queue.drain()
            elif kind == "bug":
                bugs.append(True)
            await settle()
            assert ledger(b) == sum(len(values) for _, values, _ in sent)
        b.engine.open = True
        b.engine.release()
        b.queue.drain()
        got = await asyncio.gather(*(task for task, _, _ in sent), return_exceptions=True)
    for answer, (_, values, poisoned) in zip(got, sent, strict=True):
        if isinstance(answer, dict):
            assert not poisoned
            np.testing.assert_array_equal(answer["out"], rows(*(value + 1 for value in values)))
        elif isinstance(answer, RuntimeError):
            assert poisoned
        else:
            assert isinstance(
                answer, (Overloaded, DeadlineExceeded, Unavailable, InternalError, asyncio.CancelledError)
            )
    assert b.observer.rows == 0
    assert b.observer.size_bytes == 0
    assert b.engine.ran_for_nobody == []
    assert ledger(b) == sum(len(values) for _, values, _ in sent)
    # What ran for callers who left meanwhile, by the engine's own count, which cannot tell poisoned rows apart.
    assert 0 <= b.observer.dead_rows - b.engine.left_meanwhile <= b.engine.num_poisoned


def test_1_a_window_that_has_passed_while_the_engine_was_busy_waits_no_longer() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=3, window_seconds=60), held=True) as b:
            running = [b.submit(value) for value in (1, 2, 3)]
            await settle()
            waiting = b.submit(4)
            await settle()
            b.clock.now = 60.0
            b.engine.open = True
            b.engine.release()
            await asyncio.wait_for(asyncio.gather(*running, waiting), 5)
            assert b.engine.batches == [[1, 2, 3], [4]]
            assert b.observer.cuts == ["full", "window"]

    run(body())


def test_1_a_window_ends_though_nobody_else_comes() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=3, window_seconds=1e-3)) as b:
            await asyncio.wait_for(b.submit(1), 5)  # the clock stands still: what ends the window is its length
            assert b.engine.batches == [[1]]

    run(body())


def test_1_a_window_is_as_long_as_is_left_of_it_and_draining_ends_it() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=3, window_seconds=1e9)) as b:
            waiting = b.submit(1)
            await settle()
            assert b.engine.batches == []
            b.queue.drain()
            await asyncio.wait_for(waiting, 5)
            assert b.observer.cuts == ["window"]

    run(body())


def test_1_the_observer_is_told_why_a_batch_was_cut_and_how_long_its_rows_waited() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(1, 2), b.submit(3, 4, 5)]
            await settle()
            b.clock.now = 2.5
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.engine.batches == [[0], [1, 2, 3, 4], [5]]
            assert b.observer.cuts == ["free", "full", "free"]
            assert b.observer.waits == [0.0, 2.5, 2.5, 2.5]
            assert b.observer.executed_rows == 6

    run(body())


def test_1_nothing_polls() -> None:
    async def body() -> None:
        async with bench() as b:
            await b.submit(1)
            await settle()
            told: list[int] = []
            b.observer.queued = lambda rows, size_bytes: told.append(rows)  # type: ignore[method-assign]
            await settle()
            assert told == []

    run(body())


def test_2_who_names_no_priority_is_neither_before_nor_behind_the_usual() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1), held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(1), asyncio.create_task(b.queue.submit(rows(2), WANTS)), b.submit(3)]
            await settle()
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.engine.batches == [[0], [1], [2], [3]]

    run(body())


def test_2_rows_of_low_priority_run_last() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1), held=True) as b:
            tasks = [b.submit(0)]
            await settle()
            tasks += [b.submit(value, priority=priority) for value, priority in ((1, -1), (2, 0), (3, 1), (4, -1))]
            await settle()
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)
            assert b.engine.batches == [[0], [3], [2], [1], [4]]

    run(body())


@pytest.mark.parametrize(("now", "reason"), [(0.5, "cancelled"), (1.0, "expired"), (2.0, "expired")])
def test_3_a_caller_who_leaves_at_the_deadline_has_expired_one_who_leaves_before_has_cancelled(
    now: float, reason: str
) -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            running = b.submit(0)
            await settle()
            leaving = b.submit(1, 2, 3, deadline=1.0)
            await settle()
            b.clock.now = now
            leaving.cancel()
            await settle()
            assert b.observer.drops == {reason: 3}
            assert (b.observer.rows, b.observer.size_bytes) == (0, 0)
            b.engine.open = True
            b.engine.release()
            await running

    run(body())


def test_4_a_batch_that_fails_is_run_again_in_halves() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            mates = [b.submit(value) for value in (1, POISON, 3, 4)]
            await settle()
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*mates, return_exceptions=True)
            assert b.engine.batches == [[1, POISON, 3, 4], [1, POISON], [1], [POISON], [3, 4]]
            assert b.observer.executed_rows == 4 + 2 + 1 + 1 + 2
            assert b.observer.dead_rows == 0

    run(body())


def test_4_who_left_before_a_batch_is_run_again_is_dropped_and_counted() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8), held=True) as b:
            mates = [b.submit(POISON), b.submit(2, 3), b.submit(4, 5, 6, deadline=1.0), b.submit(7)]
            await settle()
            mates[1].cancel()
            b.clock.now = 1.0
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(*mates, return_exceptions=True)
            assert [type(one) for one in got] == [RuntimeError, asyncio.CancelledError, DeadlineExceeded, dict]
            assert b.engine.batches[1:] == [[POISON], [7]]
            assert b.observer.drops == {"failed": 1, "cancelled": 2, "expired": 3}

    run(body())


def test_4_of_a_large_request_whose_caller_left_the_rows_of_this_batch_are_counted() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            large, poisoned = b.submit(1, 2, 3, 4, 5, 6), b.submit(7, POISON)
            await settle()
            b.engine.release()
            await settle()
            assert b.engine.batches[1:] == [[5, 6, 7, POISON]]  # it is held
            large.cancel()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(large, poisoned, return_exceptions=True)
            assert [type(one) for one in got] == [asyncio.CancelledError, RuntimeError]
            assert b.observer.drops == {"cancelled": 2, "failed": 2}

    run(body())


@pytest.mark.parametrize(
    ("now", "said"), [(1.0, "passed 0 ms ago"), (1.0001, "passed 0 ms ago"), (1.25, "passed 250 ms ago")]
)
def test_3_an_error_says_how_long_ago_the_deadline_was(now: float, said: str) -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            running = b.submit(0)
            await settle()
            expiring = b.submit(1, deadline=1.0)
            await settle()
            b.clock.now = now
            b.engine.open = True
            b.engine.release()
            await running
            with pytest.raises(DeadlineExceeded, match=f"^the deadline {said}$"):
                await expiring

    run(body())


def test_3_what_is_given_up_under_overload_is_told_how_much_time_it_had_left() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 1.0
            await b.submit(*range(8))  # it learns: 8 rows a second
            b.engine.open = False
            running = b.submit(*range(50, 58))
            await settle()
            doomed = [b.submit(value, deadline=b.clock.now + 1.6) for value in range(12)]
            await settle()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(running, *doomed, return_exceptions=True)
            assert {str(one) for one in got[1:]} == {"the deadline in 600 ms could not be met"}
            assert b.observer.drops == {"expired": 12}

    run(body())


def test_6_the_hint_is_what_the_rows_that_wait_will_take_at_the_pace_learned() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=4, max_queue_rows=12)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 2.0
            await b.submit(*range(4))  # it learns: 2 rows a second
            b.engine.open = False
            tasks = [b.submit(0)]
            await settle()
            hints = []
            for size in (4, 8):
                tasks.append(b.submit(*range(size)))
                await settle()
                if size == 4:
                    with pytest.raises(Overloaded, match="4 of 12 rows") as refused:
                        await b.submit(*range(9))
                else:
                    with pytest.raises(Overloaded, match="12 of 12 rows") as refused:
                        await b.submit(1)
                hints.append(refused.value.retry_after_seconds)
            assert hints == pytest.approx([2.0, 6.0])
            assert b.observer.drops == {"full": 10}
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)

    run(body())


def test_6_before_any_batch_ran_the_hint_is_a_second() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1, max_queue_rows=1)) as b:
            b.engine.open = False
            tasks = [b.submit(0)]
            await settle()
            tasks.append(b.submit(1))
            await settle()
            with pytest.raises(Overloaded, match="1 of 1 rows") as refused:
                await b.submit(2)
            assert refused.value.retry_after_seconds == 1.0
            assert b.observer.drops == {"full": 1}
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(*tasks)

    run(body())


def test_6_what_would_never_fit_is_not_asked_to_come_again() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_queue_rows=1)) as b:
            with pytest.raises(Overloaded) as refused:
                await b.submit(1, 2)
            assert refused.value.retry_after_seconds == 0.0
            assert b.observer.drops == {"full": 2}
            await b.submit(1)  # as many as there is room for

    run(body())


def test_6_what_is_refused_is_counted_by_reason() -> None:
    async def body() -> None:
        async with bench() as b:
            b.clock.now = 5.0
            with pytest.raises(DeadlineExceeded):
                await b.submit(1, 2, deadline=5.0)
            b.queue.drain()
            with pytest.raises(Unavailable):
                await b.submit(1, 2, 3)
            assert b.observer.drops == {"expired": 2, "draining": 3}

    run(body())


def test_the_oldest_row_has_an_age_and_an_empty_queue_none() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            running = b.submit(0)
            await settle()
            assert b.queue.oldest_age() == 0.0
            b.clock.now = 1.0
            waiting = b.submit(1)
            await settle()
            b.clock.now = 3.5
            assert b.queue.oldest_age() == 2.5
            b.engine.open = True
            b.engine.release()
            await asyncio.gather(running, waiting)
            assert b.queue.oldest_age() == 0.0

    run(body())


def test_1_every_piece_of_a_large_request_is_told_as_what_it_is() -> None:
    async def body() -> None:
        async with bench() as b:
            waited: list[tuple[float, int]] = []
            b.observer.waited = lambda seconds, rows: waited.append((seconds, rows))  # type: ignore[method-assign]
            await b.submit(*range(11))
            assert b.observer.cuts == ["full", "full", "free"]
            assert waited == [(0.0, 4), (0.0, 4), (0.0, 3)]

    run(body())


def test_3_rows_whose_deadline_passes_as_their_batch_starts_are_counted_as_dead() -> None:
    async def body() -> None:
        async with bench() as b:
            asked: list[int] = []

            def clock() -> float:
                """Of the second batch the first to ask is what looks whether its job is still wanted."""
                asked.append(len(b.observer.cuts))
                return 2.0 if asked.count(2) > 1 else 0.0

            b.queue._clock = b.queue._execution._clock = clock
            task = b.submit(*range(7), deadline=1.0)
            await asyncio.wait_for(task, 5)
            assert [len(batch) for batch in b.engine.batches] == [4, 3]
            assert b.observer.dead_rows == 3

    run(body())


@pytest.mark.parametrize("learned", [False, True], ids=["nothing learned", "learned"])
@pytest.mark.parametrize("priority", [-1, 0, 1])
def test_1_a_window_ends_early_enough_for_the_earliest_deadline(learned: bool, priority: int) -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8, window_seconds=3600)) as b:
            if learned:
                b.engine.clock, b.engine.seconds_per_batch = b.clock, 4.0
                await b.submit(*range(8))  # it learns: 2 rows a second
            ends, now = [], b.clock.now
            b.queue._formation.window_end = lambda *asked: ends.append(window_end(*asked)) or 0.0  # type: ignore[func-returns-value, method-assign, assignment]
            window_end = type(b.queue._formation).window_end.__get__(b.queue._formation)
            tasks = [b.submit(1, deadline=now + 6.0, priority=priority), b.submit(2, 3, priority=0)]
            await asyncio.gather(*tasks)
            assert ends == [now + (3.0 if not learned else 6.0 - max(3.0, 1.25 * 1.5))]

    run(body())


def test_1_a_late_arrival_with_an_early_deadline_ends_the_window() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8, window_seconds=1e6)) as b:
            waiting = b.submit(1)
            await settle()
            assert b.engine.batches == []
            await asyncio.wait_for(b.submit(2, deadline=0.01), 5)  # of the timer's time: the clock stands still
            await waiting
            assert b.engine.batches == [[2, 1]]

    run(body())


def test_1_a_slow_engine_ends_the_window_before_half_of_the_time_is_gone() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8, window_seconds=1e6)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 8.0
            await b.submit(*range(8))  # it learns: 1 row a second
            now = b.clock.now
            waiting = b.submit(1, 2, 3, 4, deadline=now + 6.0)
            await settle()
            assert b.queue._formation.window_end(b.queue._waiting, 1e6) == now + 6.0 - 1.25 * 4
            b.queue.drain()
            await asyncio.gather(waiting, return_exceptions=True)

    run(body())


def test_1_a_window_that_is_shortened_while_it_is_waited_for_ends() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8, window_seconds=1e6)) as b:
            waiting = b.submit(1)
            await settle()
            b.queue.config = QueueConfig(max_batch_rows=8)
            await asyncio.wait_for(waiting, 5)

    run(body())


def test_5_every_row_is_counted_once_when_a_part_of_a_request_fails() -> None:
    async def body() -> None:
        async with bench() as b:
            with pytest.raises(RuntimeError):
                await b.submit(1, 2, 3, 4, POISON, *range(5, 11))
            assert (b.observer.ran_rows, b.observer.drops) == (4, {"failed": 7})

    run(body())


def test_5_rows_whose_caller_left_while_they_ran_have_run() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            leaving = b.submit(1, 2, 3, 4, 5)
            await settle()
            leaving.cancel()
            await settle()
            b.engine.release()
            await settle()
            assert (b.observer.ran_rows, b.observer.drops) == (4, {"cancelled": 1})

    run(body())


def test_5_an_observer_that_raises_costs_nobody_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with bench() as b:

            def raises(*arguments: Any) -> None:
                raise ValueError("a fault in counting")

            for event in ("queued", "ran", "dropped", "waited", "formed", "executed"):
                setattr(b.observer, event, raises)
            for _ in range(2):
                assert (await b.submit(1))["out"][0, 0] == 2
            with pytest.raises(RuntimeError, match="poisoned"):
                await b.submit(POISON)

    run(body())
    assert caplog.text.count("the observer failed") == 6  # each once, though it happens for every row
    assert "a fault in counting" in caplog.text


@pytest.mark.parametrize("results", [[], [{}], [{"out": rows(1)}], [{"out": rows(1, 2)}, {"out": rows(3)}]])
def test_5_an_engine_that_answers_more_or_less_than_it_was_asked_fails_the_batch_and_no_more(results: Any) -> None:
    async def body() -> None:
        async with bench() as b:
            execute = b.queue._execution._executes
            b.queue._execution._executes = [lambda pieces: asyncio.sleep(0, results)]
            with pytest.raises(RuntimeError, match=r"expected \[2\]"):
                await asyncio.wait_for(b.submit(1, 2), 5)
            b.queue._execution._executes = execute
            assert (await b.submit(1))["out"][0, 0] == 2
            assert b.observer.drops == {"failed": 2}

    run(body())


def test_6_a_queue_that_dies_tells_its_callers_and_can_be_begun_again() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            bugs = make_buggy(b)
            running = b.submit(0)
            await settle()
            waiting = [b.submit(1), b.submit(2, 3, 4, 5, 6)]
            await settle()
            bugs.append(True)
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(running, *waiting, return_exceptions=True)
            assert [type(one) for one in got] == [dict, InternalError, InternalError]
            assert b.observer.drops == {"failed": 6}
            assert (await asyncio.wait_for(b.submit(7), 5))["out"][0, 0] == 8

    run(body())


def test_6_a_queue_that_is_closed_refuses_what_waits_and_what_comes() -> None:
    async def body() -> None:
        async with bench(held=True) as b:
            b.submit(0)
            await settle()
            waiting = b.submit(1)
            await settle()
            b.queue.close()
            for refused in (waiting, b.submit(2)):
                with pytest.raises(Unavailable):
                    await refused

    run(body())


@pytest.mark.parametrize(("values", "deadline", "field"), [((), 1.0, "rows"), ((1,), float("nan"), "deadline")])
def test_what_has_no_place_in_the_line_is_refused_and_leaves_no_trace(
    values: tuple[int, ...], deadline: float, field: str
) -> None:
    async def body() -> None:
        async with bench() as b:
            with pytest.raises(InvalidInput, match=field):
                await b.submit(*values, deadline=deadline)
            assert (await b.submit(1, priority=2**80))["out"][0, 0] == 2
            assert b.queue._waiting.num_places() == 0 or b.queue._waiting.rows == 0
            assert (b.observer.rows, b.observer.size_bytes) == (0, 0)

    run(body())


def test_3_what_would_expire_in_a_batch_is_given_up_though_who_goes_first_has_no_deadline() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=8)) as b:
            b.engine.clock, b.engine.seconds_per_batch = b.clock, 1.0
            await b.submit(*range(8))  # it learns: 8 rows a second
            b.engine.open = False
            running = b.submit(*range(50, 58))
            await settle()
            first = [b.submit(value, priority=1) for value in range(4)]
            doomed = [b.submit(value, deadline=b.clock.now + 1.6) for value in range(60, 72)]
            await settle()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.gather(running, *first, *doomed, return_exceptions=True)
            assert [type(one) for one in got[5:]] == [DeadlineExceeded] * 12
            assert b.engine.batches[2:] == [[0, 1, 2, 3]]

    run(body())


def test_3_a_step_of_the_wall_clock_ends_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        engine = FakeEngine(open=False)
        queue = BatchQueue([engine], QueueConfig(max_batch_rows=1), Instances(), FakeObserver())
        server = asyncio.create_task(queue.run())
        tasks = [asyncio.create_task(queue.submit(rows(value), WANTS, time.monotonic() + 25)) for value in (1, 2)]
        await settle()
        monkeypatch.setattr(time, "time", lambda: 1e12)
        engine.open = True
        engine.release()
        assert [got["out"][0, 0] for got in await asyncio.gather(*tasks)] == [2, 3]
        queue.drain()
        await server

    run(body())


def test_3_an_expired_row_takes_no_place_from_those_beside_it() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=2)) as b:
            instance = await b.queue._instances.take()  # it is another queue's
            expiring, kept = b.submit(1, deadline=1.0), [b.submit(value) for value in (2, 3)]
            await settle()
            b.clock.now = 2.0
            b.queue._instances.give(instance)
            await asyncio.gather(*kept)
            assert b.engine.batches == [[2, 3]]
            with pytest.raises(DeadlineExceeded):
                await expiring

    run(body())


def test_6_draining_answers_what_still_waits_for_a_batch() -> None:
    async def body() -> None:
        async with bench(QueueConfig(max_batch_rows=1), held=True) as b:
            accepted = [b.submit(value) for value in (1, 2, 3)]
            await settle()
            b.queue.drain()
            b.engine.open = True
            b.engine.release()
            got = await asyncio.wait_for(asyncio.gather(*accepted), 5)
            assert [int(one["out"][0, 0]) for one in got] == [2, 3, 4]

    run(body())
