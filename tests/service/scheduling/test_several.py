"""The scheduler's contract with several instances, point by point (the numbers are those of batching.py)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentserve.errors import DeadlineExceeded, InternalError, Overloaded, Unavailable
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.instances import Instance, Instances, instances_of
from tests.fakes import FOREVER, POISON, FakeObserver, FakeTime, TimedEngine, rows, settle

WANTS = frozenset({"out"})


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


class Bench:
    """A queue before engines that take a second a batch, on a clock of their own."""

    def __init__(self, num: int, config: QueueConfig) -> None:
        self.time, self.observer = FakeTime(), FakeObserver()
        self.engines = [TimedEngine(self.time) for _ in range(num)]
        every = instances_of([f"cuda:{number}" for number in range(num)], 1)
        self.instances = Instances(every, self._prove, None, self.time, self.time.sleep)
        self.queue = BatchQueue(self.engines, config, self.instances, self.observer, self.time)
        self.server = asyncio.create_task(self.queue.run())

    async def _prove(self, one: Instance) -> None:
        await self.engines[one.number].prove()

    def submit(self, *values: int, deadline: float = FOREVER, priority: int = 0) -> asyncio.Task[Any]:
        return asyncio.create_task(self.queue.submit(rows(*values), WANTS, deadline, priority))

    @property
    def batches(self) -> list[list[list[int]]]:
        """That each engine ran."""
        return [engine.batches for engine in self.engines]

    @property
    def in_service(self) -> list[bool]:
        return [not one.is_out for one in self.instances.every]


@asynccontextmanager
async def bench(num: int = 2, **bounds: Any) -> AsyncIterator[Bench]:
    made = Bench(num, QueueConfig(**{"max_batch_rows": 4} | bounds))
    yield made
    made.queue.drain()
    await made.time.pass_by(1e4)
    await asyncio.wait_for(made.server, 5)
    made.instances.close()
    assert made.observer.nonsense == []
    assert all(engine.most_running <= 1 for engine in made.engines)


async def throughput(num: int, seconds_per_batch: float, seconds_per_row: float, clients: int = 64) -> float:
    """Rows a second of clients that ask for one row each, again and again."""
    async with bench(num, max_batch_rows=8) as b:
        for engine in b.engines:
            engine.seconds_per_batch, engine.seconds_per_row = seconds_per_batch, seconds_per_row

        async def client(value: int) -> None:
            while True:
                await b.queue.submit(rows(value), WANTS, b.time.now + 1e6)

        tasks = [asyncio.create_task(client(value)) for value in range(clients)]
        await b.time.pass_by(100.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return b.observer.ran_rows / 100.0


@pytest.mark.parametrize(("per_batch", "per_row"), [(1.0, 0.0), (0.2, 0.1), (0.0, 0.125)])
def test_two_devices_run_twice_as_many_rows_and_three_thrice(per_batch: float, per_row: float) -> None:
    async def body() -> None:
        one, two, three = [await throughput(num, per_batch, per_row) for num in (1, 2, 3)]
        assert one == pytest.approx(8.0, rel=0.03)
        assert two / one == pytest.approx(2.0, rel=0.03)
        assert three / one == pytest.approx(3.0, rel=0.03)

    run(body())


async def both_busy(b: Bench) -> list[asyncio.Task[Any]]:
    """A request on each of two engines."""
    tasks = [b.submit(0)]
    await settle()
    tasks += [b.submit(1)]
    await settle()
    return tasks


def test_1_a_batch_is_formed_when_an_engine_is_free_and_not_before() -> None:
    async def body() -> None:
        async with bench() as b:
            tasks = await both_busy(b)
            tasks += [b.submit(2, 3), b.submit(4)]
            await settle()
            assert b.batches == [[[0]], [[1]]]  # both are busy: what waits is in no batch yet
            tasks += [b.submit(5)]
            await b.time.pass_by(1.0)
            assert b.batches == [[[0], [2, 3, 4, 5]], [[1]]]
            await b.time.pass_by(1.0)
            await asyncio.gather(*tasks)

    run(body())


def test_1_with_a_window_a_batch_waits_for_company_though_two_are_free() -> None:
    async def body() -> None:
        async with bench(window_seconds=1e6) as b:
            tasks = [b.submit(1), b.submit(2)]
            await settle()
            assert b.batches == [[], []]
            tasks += [b.submit(3, 4, 5)]
            await settle()
            assert b.batches == [[[1, 2, 3, 4]], []]  # full; the one that is left waits for company of its own
            b.queue.drain()
            await b.time.pass_by(3.0)
            await asyncio.gather(*tasks)

    run(body())


def test_1_a_large_request_runs_on_all_at_once_and_comes_back_whole_and_in_order() -> None:
    async def body() -> None:
        async with bench() as b:
            b.engines[0].seconds_per_batch = 1.7  # its rows are done last
            task = b.submit(*range(16))
            await b.time.pass_by(4.0)
            np.testing.assert_array_equal((await task)["out"], rows(*range(1, 17)))
            assert b.batches == [[[0, 1, 2, 3], [12, 13, 14, 15]], [[4, 5, 6, 7], [8, 9, 10, 11]]]

    run(body())


def test_2_the_most_urgent_goes_first_wherever_it_runs() -> None:
    async def body() -> None:
        async with bench(max_batch_rows=1) as b:
            tasks = [b.submit(0), b.submit(1)]
            await settle()
            tasks += [b.submit(2), b.submit(3, deadline=99), b.submit(4, deadline=50), b.submit(5, priority=1)]
            await b.time.pass_by(3.0)
            await asyncio.gather(*tasks)
            order = list(itertools.chain(*itertools.zip_longest(*b.batches)))
            assert order == [[0], [1], [5], [4], [3], [2]]

    run(body())


def test_3_what_expired_or_left_while_both_were_busy_never_runs() -> None:
    async def body() -> None:
        async with bench() as b:
            tasks = await both_busy(b)
            expiring, leaving, kept = b.submit(2, deadline=0.5), b.submit(3), b.submit(4)
            await settle()
            leaving.cancel()
            await b.time.pass_by(3.0)
            await asyncio.gather(*tasks, kept)
            with pytest.raises(DeadlineExceeded):
                await expiring
            assert sorted(itertools.chain(*b.batches)) == [[0], [1], [4]]
            assert b.observer.drops == {"expired": 1, "cancelled": 1}
            assert b.observer.dead_rows == 0

    run(body())


def test_3_under_overload_two_answer_in_time_what_two_can() -> None:
    """Twice as many come as two engines run: half is answered, in time, and nothing runs for nobody."""

    async def body() -> None:
        async with bench(max_batch_rows=8) as b:
            await asyncio.gather(*(b.submit(*range(8)) for _ in range(2)), b.time.pass_by(2.0))
            tasks = []
            for value in range(400):
                tasks.append(b.submit(value, deadline=b.time.now + 3.0))
                await b.time.pass_by(1 / 32)
            await b.time.pass_by(5.0)
            got = await asyncio.gather(*tasks, return_exceptions=True)
            answered = sum(isinstance(one, dict) for one in got)
            assert answered >= 0.9 * 12.5 * 16
            assert b.observer.dead_rows == 0

    run(body())


def test_4_a_request_that_fails_everywhere_fails_alone_and_no_device_is_blamed() -> None:
    async def body() -> None:
        async with bench() as b:
            mates = [b.submit(value) for value in (1, POISON, 3, 4)]
            await b.time.pass_by(20.0)
            got = await asyncio.gather(*mates, return_exceptions=True)
            assert isinstance(got[1], RuntimeError)
            assert [type(one) for one in got].count(dict) == 3
            assert b.observer.drops == {"failed": 1}
            assert [one.returned for one in b.instances.every] == [-FOREVER] * 2  # neither has ever been out

    run(body())


def test_4_a_caller_who_leaves_touches_neither_his_mates_nor_the_other_batch() -> None:
    async def body() -> None:
        async with bench() as b:
            mates = [b.submit(value) for value in range(8)]
            await settle()
            assert [len(one) for one in b.batches] == [1, 1]
            mates[1].cancel()
            mates[6].cancel()
            await b.time.pass_by(1.0)
            got = await asyncio.gather(*mates, return_exceptions=True)
            assert [type(one) for one in got].count(dict) == 6

    run(body())


def test_6_the_bounds_are_those_of_one_queue_and_the_hint_knows_of_both_devices() -> None:
    async def body() -> None:
        hints = []
        for num in (1, 2):
            async with bench(num, max_queue_rows=8) as b:
                await asyncio.gather(*(b.submit(*range(4)) for _ in range(2)), b.time.pass_by(2.0))
                tasks = []
                for _ in range(num + 2):
                    tasks.append(b.submit(*range(4)))
                    await settle()
                with pytest.raises(Overloaded, match="8 of 8 rows") as refused:
                    await b.submit(1)
                hints.append(refused.value.retry_after_seconds)
                await asyncio.gather(*tasks, b.time.pass_by(4.0))
        assert hints == pytest.approx([2.0, 1.0])

    run(body())


def test_6_draining_answers_what_was_accepted_on_both() -> None:
    async def body() -> None:
        async with bench(max_batch_rows=1) as b:
            tasks = [b.submit(value) for value in range(5)]
            await settle()
            b.queue.drain()
            with pytest.raises(Unavailable):
                await b.submit(9)
            await b.time.pass_by(2.0)
            assert not b.server.done()  # the fifth is still running
            await b.time.pass_by(1.0)
            assert b.server.done()
            assert [int((await task)["out"][0, 0]) for task in tasks] == [1, 2, 3, 4, 5]

    run(body())


def test_6_nobody_hangs_when_the_server_is_killed() -> None:
    async def body() -> None:
        async with bench(max_batch_rows=1) as b:
            tasks = [b.submit(value) for value in range(5)]
            await settle()
            b.server.cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in got] == [Unavailable] * 5
            assert b.instances.num_in_service == 2
            b.server = asyncio.create_task(asyncio.sleep(0))

    run(body())


def test_6_a_fault_of_ours_ends_all_that_waits_and_it_may_be_begun_again() -> None:
    async def body() -> None:
        async with bench() as b:
            share = b.queue._formation.share
            b.queue._formation.share = lambda *asked: {}["a bug"]  # type: ignore[method-assign]
            with pytest.raises(InternalError):
                await b.submit(1)
            with pytest.raises(KeyError):
                await b.server
            b.queue._formation.share = share  # type: ignore[method-assign]
            b.server = asyncio.create_task(b.queue.run())
            task = b.submit(2)
            await b.time.pass_by(1.0)
            assert (await task)["out"][0, 0] == 3

    run(body())


def test_7_queues_share_the_instances_by_turns_and_none_runs_two_batches() -> None:
    async def body() -> None:
        async with bench(max_batch_rows=1) as b:
            observer = FakeObserver()
            other = BatchQueue(b.engines, QueueConfig(max_batch_rows=1), b.instances, observer, b.time)
            server = asyncio.create_task(other.run())
            tasks = [b.submit(value) for value in range(20)]
            tasks += [asyncio.create_task(other.submit(rows(value), WANTS)) for value in range(100, 120)]
            for seconds in range(1, 20):
                await b.time.pass_by(1.0)
                assert abs(b.observer.ran_rows - observer.ran_rows) <= 2
                assert b.observer.ran_rows + observer.ran_rows == 2 * seconds
            await b.time.pass_by(1.0)
            await asyncio.gather(*tasks)
            other.drain()
            await server

    run(body())


def test_8_a_device_that_fails_takes_itself_out_and_its_rows_are_answered_by_the_other() -> None:
    async def body() -> None:
        async with bench() as b:
            b.engines[0].broken = True
            first = [b.submit(value) for value in range(4)]
            await b.time.pass_by(2.5)
            assert [int((await task)["out"][0, 0]) for task in first] == [1, 2, 3, 4]
            assert b.in_service == [False, True]
            assert b.batches == [[[0, 1, 2, 3]], [[0, 1, 2, 3]]]
            more = [b.submit(value) for value in range(10, 22)]
            await b.time.pass_by(4.0)
            await asyncio.gather(*more)
            assert len(b.engines[0].batches) == 1  # it got nothing more
            assert b.observer.drops == {}
            b.engines[0].broken = False
            await b.time.pass_by(60.0)
            assert b.in_service == [True, True]
            back = [b.submit(value) for value in range(8)]
            await b.time.pass_by(1.0)
            await asyncio.gather(*back)
            assert len(b.engines[0].batches) == 2

    run(body())


def test_8_a_device_that_hangs_is_taken_out_and_its_rows_are_answered_by_the_other() -> None:
    async def body() -> None:
        async with bench() as b:
            b.engines[0].hung = True
            tasks = [b.submit(value) for value in range(8)]
            await b.time.pass_by(31.0)
            b.instances.take_out_stuck(30.0)  # as health does every second
            await b.time.pass_by(1.0)
            assert all(task.done() for task in tasks)
            assert [int((await task)["out"][0, 0]) for task in tasks] == list(range(1, 9))
            assert b.in_service == [False, True]
            assert (b.observer.ran_rows, b.observer.drops) == (8, {})
            b.engines[0].hung = False

    run(body())


def test_8_one_that_hangs_keeps_no_other_that_waits_for_its_second_opinion() -> None:
    async def body() -> None:
        async with bench() as b:
            b.engines[1].hung = True
            mates = [b.submit(value) for value in (1, POISON, 3, 4)]
            await settle()
            others = [b.submit(value) for value in (5, 6)]
            await b.time.pass_by(31.0)
            b.instances.take_out_stuck(30.0)
            await b.time.pass_by(10.0)
            assert all(task.done() for task in (*mates, *others))
            got = await asyncio.gather(*mates, *others, return_exceptions=True)
            assert [type(one) for one in got] == [dict, RuntimeError, dict, dict, dict, dict]
            assert b.in_service == [True, False]
            b.engines[1].hung = False

    run(body())


@pytest.mark.parametrize("is_broken", [False, True])
def test_8_a_batch_that_failed_for_callers_who_then_left_is_settled_by_golden_rows(is_broken: bool) -> None:
    async def body() -> None:
        async with bench() as b:
            b.engines[0].broken, b.engines[1].seconds_per_batch = is_broken, 3.0
            leaving = b.submit(7 if is_broken else POISON, deadline=1.5)
            await settle()
            tasks = [b.submit(2)]
            await settle()
            tasks.append(b.submit(3))
            await b.time.pass_by(3.5)
            with pytest.raises(DeadlineExceeded):
                await leaving
            assert b.in_service == [not is_broken, True]
            await b.time.pass_by(5.0)
            await asyncio.gather(*tasks)
            b.engines[0].broken = False

    run(body())


def test_8_the_last_one_serves_on_with_bad_rows_and_is_out_if_it_is_what_fails() -> None:
    async def body() -> None:
        async with bench() as b:
            b.engines[0].broken = True
            task = b.submit(1)
            await b.time.pass_by(2.0)
            await task
            bad = b.submit(POISON)
            await b.time.pass_by(1.0)
            with pytest.raises(RuntimeError, match="poisoned"):
                await bad
            assert b.in_service == [False, True]  # the golden rows came out right on it
            b.engines[1].broken = True
            await b.time.pass_by(10.0)
            failing = b.submit(2)
            await b.time.pass_by(2.0)
            with pytest.raises(RuntimeError, match="broken"):
                await failing
            assert b.in_service == [False, False]
            with pytest.raises(Unavailable, match="no device is in service"):
                await b.submit(3)
            assert b.observer.drops == {"failed": 3}
            b.engines[1].broken = False
            await b.time.pass_by(2.0)
            back = b.submit(4)
            await b.time.pass_by(1.0)
            assert (await back)["out"][0, 0] == 5

    run(body())


def test_8_two_that_fail_at_once_do_not_wait_for_each_other() -> None:
    async def body() -> None:
        async with bench() as b:
            for engine in b.engines:
                engine.broken = True
            tasks = [b.submit(value) for value in range(8)]
            await b.time.pass_by(50.0)
            assert all(task.done() for task in tasks)
            got = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, RuntimeError | Unavailable) for one in got)
            assert b.in_service == [False, False]
            assert b.observer.drops == {"failed": 8}
            for engine in b.engines:
                engine.broken = False

    run(body())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 9)), st.integers(0, 1)),
        st.tuples(st.just("poison"), st.integers(1, 3), st.none(), st.integers(0, 1)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.none(), st.none()),
        st.tuples(st.just("pass"), st.integers(1, 9), st.none(), st.none()),
        st.tuples(st.just("break"), st.integers(0, 2), st.none(), st.none()),
        st.tuples(st.just("mend"), st.integers(0, 2), st.none(), st.none()),
        st.tuples(st.just("stuck"), st.integers(1, 3), st.none(), st.none()),
        st.tuples(st.just("drain"), st.none(), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(num=st.integers(1, 3), steps=STEPS)
def test_3_4_5_8_any_interleaving_resolves_every_future_once_and_never_mixes_rows(num: int, steps: list[Any]) -> None:
    run(_interleave(num, steps))


async def _interleave(num: int, steps: list[Any]) -> None:
    sent: list[tuple[asyncio.Task[Any], list[int], bool]] = []
    cancelled: set[int] = set()
    deadlines: dict[int, float] = {}
    values = itertools.count(1000)  # never used twice, and no poison
    ever_broken = False
    async with bench(num, max_queue_rows=12) as b:

        def gone() -> set[int]:
            return cancelled | {value for value, until in deadlines.items() if until <= b.time.now}

        for number, engine in enumerate(b.engines):
            engine.gone, engine.seconds_per_batch = gone, (2.0, 2.5, 3.3)[number]
        for kind, number, deadline, priority in steps:
            if kind in ("submit", "poison"):
                given = [next(values) for _ in range(number)]
                given[-1] = POISON if kind == "poison" else given[-1]
                until = FOREVER if deadline is None else b.time.now + deadline
                deadlines |= {value: until for value in given if value != POISON}
                sent.append((b.submit(*given, deadline=until, priority=priority), given, kind == "poison"))
            elif kind == "cancel" and sent:
                task, given, _ = sent[number % len(sent)]
                if task.cancel():
                    cancelled |= set(given) - {POISON}
            elif kind == "pass":
                await b.time.pass_by(number / 3)
            elif kind in ("break", "mend"):
                b.engines[number % num].broken = kind == "break"
                ever_broken |= kind == "break"
            elif kind == "stuck":
                b.instances.take_out_stuck(number)
            elif kind == "drain":
                b.queue.drain()
            await settle()
            under_way = sum(part.num_rows for part in b.queue._execution.parts)
            counted = b.observer.ran_rows + b.observer.drops.total() + b.observer.rows + under_way
            assert counted == sum(len(given) for _, given, _ in sent)
        for engine in b.engines:
            engine.broken = False
        await b.time.pass_by(500.0)
        got = await asyncio.gather(*(task for task, _, _ in sent), return_exceptions=True)
        assert b.in_service == [True] * num
    for answer, (_, given, poisoned) in zip(got, sent, strict=True):
        if isinstance(answer, dict):
            assert not poisoned
            np.testing.assert_array_equal(answer["out"], rows(*(value + 1 for value in given)))
        elif isinstance(answer, RuntimeError):
            assert poisoned or ever_broken
        else:
            assert isinstance(answer, (Overloaded, DeadlineExceeded, Unavailable, asyncio.CancelledError))
    assert (b.observer.rows, b.observer.size_bytes) == (0, 0)
    assert b.observer.ran_rows + b.observer.drops.total() == sum(len(given) for _, given, _ in sent)
    assert all(engine.ran_for_nobody == [] for engine in b.engines)
