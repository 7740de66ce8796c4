"""The queue before the threads that decode, point by point (numbers as in service/scheduling/decoding_queue.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentserve.errors import DeadlineExceeded, LatentserveError, Overloaded, Unavailable
from service.scheduling.decoding_queue import UNIT_ITEMS, UNIT_WEIGHT, DecodingConfig, DecodingQueue
from tests.fakes import FOREVER, FakeClock, FakePool

SMALL, LARGE = 1, UNIT_WEIGHT
"""Weights of files of which many are a unit, and of those that are a unit each."""


@dataclass
class Desk:
    """DecodingQueue at threads that are faked. Keeps which files were done, in order, and what was told of them."""

    config: DecodingConfig = field(default_factory=DecodingConfig)
    num_cpus: int = 1
    clock: FakeClock = field(default_factory=FakeClock)
    pool: FakePool = field(default_factory=FakePool)
    done: list[tuple[str, int]] = field(default_factory=list)
    told: list[tuple[int, int]] = field(default_factory=list)
    seconds_per_file: float = 0.0

    def __post_init__(self) -> None:
        self.queue = DecodingQueue(
            self.pool, self.config, self.num_cpus, lambda *told: self.told.append(told), self.clock
        )

    def take(self, name: str, weights: Sequence[int], broken: int = -1, **urgency: Any) -> Coroutine[Any, Any, None]:
        def work(place: int) -> None:
            self.done.append((name, place))
            self.clock.now += self.seconds_per_file
            if place == broken:
                raise ValueError(name)

        return self.queue.take(work, weights, **urgency)

    async def bring(
        self, name: str, weights: Sequence[int], deadline: float = FOREVER, priority: int = 0, broken: int = -1
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self.take(name, weights, broken, deadline=deadline, priority=priority))
        await settle()
        return task

    async def do(self, which: int = 0) -> None:
        """One unit is done, and all that follows from it."""
        self.pool.do(which)
        await settle()

    async def do_all(self) -> str:
        """The names of the files done from now on, in order."""
        start = len(self.done)
        while self.pool.units:
            await self.do()
        return "".join(name for name, _ in self.done[start:])

    def is_empty(self) -> bool:
        queue = self.queue
        held = queue.size_bytes, queue.pixels, queue._weight, queue._waiting.rows, len(queue._at_work)
        return held == (0, 0, 0, 0, 0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_1_the_most_urgent_file_is_next_whenever_a_thread_is_free() -> None:
    async def body() -> None:
        desk = Desk()
        await desk.bring("a", [LARGE] * 2, priority=1)
        for name, deadline, priority in (("l", 1.0, -1), ("n", FOREVER, 0), ("t", 9.0, 0), ("u", 5.0, 0)):
            await desk.bring(name, [LARGE], deadline, priority)
        assert len(desk.pool.units) == 1  # nothing was given to a thread ahead
        await desk.do()
        await desk.bring("h", [LARGE], priority=1)
        assert await desk.do_all() == "ahutnl"
        assert desk.is_empty()

    run(body())


def test_1_of_requests_that_are_equally_urgent_none_waits_for_all_of_another() -> None:
    async def body() -> None:
        desk = Desk()
        await desk.bring("a", [LARGE] * 5)
        await desk.bring("b", [LARGE])
        await desk.bring("c", [LARGE] * 2)
        assert await desk.do_all() == "aabcacaa"

    run(body())


def test_1_as_many_units_are_at_work_as_there_are_cpus() -> None:
    async def body() -> None:
        desk = Desk(num_cpus=3)
        await desk.bring("a", [LARGE] * 5)
        assert len(desk.pool.units) == 3
        await desk.do(1)
        assert len(desk.pool.units) == 3
        assert await desk.do_all() == "aaaa"

    run(body())


def test_2_small_files_are_done_together_and_large_ones_each_by_itself() -> None:
    async def body() -> None:
        desk = Desk()
        await desk.bring("s", [SMALL] * (UNIT_ITEMS + 2))
        units = []
        while desk.pool.units:
            before = len(desk.done)
            await desk.do()
            units.append(len(desk.done) - before)
        assert units == [UNIT_ITEMS, 2]
        await desk.bring("m", [SMALL, LARGE, LARGE - 1, SMALL, LARGE])
        units = []
        while desk.pool.units:
            before = len(desk.done)
            await desk.do()
            units.append(len(desk.done) - before)
        assert units == [1, 1, 2, 1]

    run(body())


@pytest.mark.parametrize(
    ("deadline", "priority", "at_once"), [(FOREVER, 1, 1), (5.0, 0, 1), (FOREVER, 0, 0), (1.0, -1, 0)]
)
def test_2_what_is_more_urgent_than_all_that_is_at_work_waits_for_none_of_it(
    deadline: float, priority: int, at_once: int
) -> None:
    async def body() -> None:
        desk = Desk(num_cpus=2)
        await desk.bring("a", [LARGE] * 9)
        await desk.bring("b", [SMALL], deadline, priority)
        assert len(desk.pool.units) == 2 + at_once
        await desk.bring("c", [SMALL], deadline, priority)
        assert len(desk.pool.units) == 2 + at_once  # one thread more, no more than that
        await desk.do_all()
        assert desk.is_empty()

    run(body())


def test_3_files_of_callers_who_cancelled_or_whose_time_is_up_are_not_decoded() -> None:
    async def body() -> None:
        desk = Desk()
        await desk.bring("a", [LARGE])
        cancelled, expired = await desk.bring("c", [LARGE] * 4), await desk.bring("e", [LARGE] * 4, deadline=1.0)
        cancelled.cancel()
        desk.clock.now = 1.25
        assert await desk.do_all() == "a"
        with pytest.raises(DeadlineExceeded, match="^the deadline passed 250 ms ago, files were still to be decoded$"):
            await expired
        assert desk.is_empty()

    run(body())


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_3_who_goes_while_his_files_are_at_work_costs_no_more_than_a_unit(how: str) -> None:
    async def body() -> None:
        desk = Desk(num_cpus=2)
        task = await desk.bring("a", [LARGE] * 9, deadline=1.0)
        if how == "cancelled":
            task.cancel()
        desk.clock.now = 2.0
        assert await desk.do_all() == ("a" if how == "expired" else "")
        assert desk.is_empty()
        assert task.done()

    run(body())


def test_5_nobody_hangs_when_the_threads_are_ended() -> None:
    async def body() -> None:
        desk = Desk()
        task = await desk.bring("a", [LARGE])
        desk.pool.units.pop()[0].cancel()
        await settle()
        with pytest.raises(Unavailable):
            await task
        assert desk.is_empty()

    run(body())


def test_3_files_done_for_nobody_are_told() -> None:
    async def body() -> None:
        desk = Desk()
        task: asyncio.Task[None] | None = None

        def work(place: int) -> None:
            desk.done.append(("a", place))
            if place == 1:
                assert task is not None
                waiter = task._fut_waiter  # type: ignore[attr-defined]
                waiter.cancel()  # as from the caller's side, while a thread is in the middle of a unit

        task = asyncio.create_task(desk.queue.take(work, [SMALL] * 5))
        await settle()
        await desk.do()
        assert desk.done == [("a", 0), ("a", 1)]  # what is left of the unit is not begun
        assert desk.told == [(2, 2)]
        await desk.bring("b", [SMALL] * 3)
        await desk.do()
        assert desk.told == [(2, 2), (3, 0)]
        looked = asyncio.create_task(desk.queue.take(lambda _: None, [SMALL], counted=False))
        await settle()
        await desk.do()
        await looked
        assert desk.told == [(2, 2), (3, 0)]  # no files that were decoded
        assert desk.is_empty()

    run(body())


def test_3_of_a_request_with_a_broken_file_no_further_one_is_decoded() -> None:
    async def body() -> None:
        desk = Desk()
        task = await desk.bring("a", [LARGE] * 9, broken=2)
        other = await desk.bring("b", [LARGE] * 4)
        assert (await desk.do_all()).count("a") == 3
        with pytest.raises(ValueError, match="a"):
            await task
        await other
        assert desk.is_empty()

    run(body())


def test_3_while_others_wait_what_cannot_be_in_time_is_given_up_before_it_costs_anything() -> None:
    async def body() -> None:
        desk = Desk(seconds_per_file=1.0)
        learned = await desk.bring("x", [LARGE])  # a second each
        await desk.do_all()
        await learned
        await desk.bring("a", [LARGE], priority=1)
        hopeless = await desk.bring("h", [LARGE] * 5, deadline=desk.clock.now + 4.5)
        possible = await desk.bring("p", [LARGE] * 2, deadline=desk.clock.now + 4.5)
        assert await desk.do_all() == "app"
        await possible
        with pytest.raises(DeadlineExceeded, match="^the deadline in 3500 ms could not be met"):
            await hopeless
        assert desk.is_empty()

    run(body())


def test_3_alone_it_is_tried_for_an_estimate_may_be_wrong() -> None:
    async def body() -> None:
        desk = Desk(seconds_per_file=1.0)
        await desk.bring("x", [LARGE])
        await desk.do_all()
        desk.seconds_per_file = 0.1
        task = await desk.bring("a", [LARGE] * 5, deadline=desk.clock.now + 2.5)
        assert await desk.do_all() == "aaaaa"
        await task

    run(body())


def test_4_bytes_and_pixels_are_bounded_with_a_hint_when_to_come_again() -> None:
    async def body() -> None:
        desk = Desk(DecodingConfig(max_bytes=100, max_pixels=10 * LARGE), num_cpus=2, seconds_per_file=2.0)
        queue = desk.queue
        with queue.room(60, 0, 0), queue.room(0, 6 * LARGE, 0):
            with pytest.raises(Overloaded, match="60 of 100 bytes wait, 41 came$") as refused, queue.room(41, 0, 0):
                pass
            assert refused.value.retry_after_seconds == 1.0  # nothing is known yet
            assert queue.backlog_seconds() == 0.0
            with (
                pytest.raises(Overloaded, match=f"{6 * LARGE} of {10 * LARGE} pixels wait"),
                queue.room(0, 4 * LARGE + 1, 0),
            ):
                pass
            await desk.bring("a", [LARGE])
            await desk.do_all()
            await desk.bring("b", [LARGE] * 6)  # two seconds each, two at a time
            with pytest.raises(Overloaded) as refused, queue.room(41, 0, 0):
                pass
            assert refused.value.retry_after_seconds == queue.backlog_seconds() == pytest.approx(6.0)
            with queue.room(40, 0, 0), queue.room(0, 4 * LARGE, 0):
                pass
        await desk.do_all()
        assert desk.is_empty()

    run(body())


def test_4_callers_of_low_priority_shut_nobody_out() -> None:
    queue = Desk(DecodingConfig(max_bytes=100, max_pixels=100)).queue
    with queue.room(90, 90, -1):  # it comes in while less than half is taken, and then is in
        with pytest.raises(Overloaded, match="90 of 100 bytes wait, 5 came, of low priority$"), queue.room(5, 0, -1):
            pass
        with pytest.raises(Overloaded, match="90 of 100 pixels wait, 5 came, of low priority$"), queue.room(0, 5, -1):
            pass
        with queue.room(5, 5, 0):
            pass
    assert (queue.size_bytes, queue.pixels) == (0, 0)


def test_threads_do_all_of_it_once() -> None:
    async def body() -> None:
        done: list[int] = []
        with ThreadPoolExecutor(3) as pool:
            queue = DecodingQueue(pool, num_cpus=2)
            await asyncio.gather(*(queue.take(done.append, [LARGE, SMALL] * 20) for _ in range(5)))
        assert sorted(done) == sorted([*range(40)] * 5)

    run(body())


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("bring"), st.lists(st.sampled_from([SMALL, LARGE]), min_size=1, max_size=12), st.integers(-1, 1)
        ),
        st.tuples(
            st.just("urgent"), st.lists(st.sampled_from([SMALL, LARGE]), min_size=1, max_size=12), st.integers(1, 5)
        ),
        st.tuples(
            st.just("broken"), st.lists(st.sampled_from([SMALL, LARGE]), min_size=1, max_size=12), st.integers(0, 11)
        ),
        st.tuples(st.just("cancel"), st.none(), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.none(), st.integers(1, 3)),
        st.tuples(st.just("do"), st.none(), st.integers(0, 2)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(steps=STEPS)
def test_5_whatever_happens_everyone_is_answered_once_and_everything_is_given_back(steps: list[Any]) -> None:
    async def caller(desk: Desk, weights: list[int], **how: Any) -> None:
        with desk.queue.room(len(weights), sum(weights), 0):
            await desk.take("x", weights, **how)

    async def body() -> None:
        desk, callers = Desk(num_cpus=2), list[asyncio.Task[None]]()
        for kind, weights, number in steps:
            if kind == "cancel" and callers:
                callers[number % len(callers)].cancel()
            elif kind == "pass":
                desk.clock.now += number
            elif kind == "do" and desk.pool.units:
                desk.pool.do(number % len(desk.pool.units))
            elif weights is not None:
                how = {
                    "bring": {"priority": number},
                    "urgent": {"deadline": desk.clock.now + number},
                    "broken": {"broken": number % len(weights)},
                }[kind]
                callers.append(asyncio.create_task(caller(desk, weights, **how)))
            await settle()
            assert len(desk.pool.units) <= 3
        await desk.do_all()
        got = await asyncio.gather(*callers, return_exceptions=True)
        kinds = (type(None), asyncio.CancelledError, DeadlineExceeded, ValueError, LatentserveError)
        assert all(isinstance(one, kinds) for one in got)
        assert desk.is_empty()

    run(body())
