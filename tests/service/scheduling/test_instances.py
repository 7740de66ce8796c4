"""Who gives out instances, point by point (the numbers are those of service/scheduling/instances.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from service.scheduling.instances import (
    EXAMINE_SECONDS,
    LONGEST_PAUSE,
    STEADY_SECONDS,
    Instance,
    Instances,
    NoneInService,
    instances_of,
)
from tests.fakes import FakeTime, settle


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def ran(self, instance: Instance, seconds: float, well: bool) -> None:
        self.events.append(("ran", instance.name, str(well)))

    def out(self, instance: Instance, why: str) -> None:
        self.events.append(("out", instance.name, why))

    def back(self, instance: Instance) -> None:
        self.events.append(("back", instance.name))


class Bench:
    """Instances on a clock of their own. `well` says who can prove itself."""

    def __init__(self, devices: tuple[str, ...] = ("a", "b"), of_each: int = 1) -> None:
        self.time, self.told, self.well = FakeTime(), Told(), True
        self.proofs: list[float] = []
        every = instances_of(devices, of_each)
        self.all = Instances(every, self._prove, self.told, self.time, self.time.sleep)
        self.every = self.all.every

    async def _prove(self, one: Instance) -> None:
        self.proofs.append(self.time.now)
        if not self.well:
            raise RuntimeError("golden rows come out otherwise")


def test_they_are_numbered_by_device_the_devices_by_turns() -> None:
    assert [one.name for one in instances_of(["cuda:0", "cuda:1"], 2)] == [
        "cuda:0/0",
        "cuda:1/0",
        "cuda:0/1",
        "cuda:1/1",
    ]


def test_1_each_is_given_once_and_who_waits_gets_it_in_the_order_of_asking() -> None:
    async def body() -> None:
        b = Bench()
        first, second = await b.all.take(), await b.all.take()
        assert {first, second} == set(b.every)
        waiting = [asyncio.create_task(b.all.take()) for _ in range(2)]
        await settle()
        again = asyncio.create_task(b.all.take(again=True))
        await settle()
        assert not any(task.done() for task in (*waiting, again))
        for one, expected in ((first, again), (second, waiting[0])):
            b.all.give(one)
            await settle()
            assert await expected is one
        assert not waiting[1].done()
        waiting[1].cancel()

    run(body())


def test_1_who_leaves_while_waiting_or_as_it_is_handed_over_takes_none_with_him() -> None:
    async def body() -> None:
        b = Bench(("a",))
        (one,) = b.every
        await b.all.take()
        leaving, handed = [asyncio.create_task(b.all.take()) for _ in range(2)]
        await settle()
        leaving.cancel()
        await settle()
        b.all.give(one)  # `handed` has it, and is cancelled before it learns so
        handed.cancel()
        await settle()
        assert await b.all.take() is one

    run(body())


def test_2_the_device_that_runs_the_fewest_goes_first_then_who_has_been_free_for_longest() -> None:
    async def body() -> None:
        b = Bench(of_each=2)
        taken = [await b.all.take() for _ in range(3)]
        assert [one.name for one in taken] == ["a/0", "b/0", "a/1"]
        for now, one in enumerate(taken):
            b.time.now = float(now)
            b.all.give(one)
        assert (await b.all.take()).name == "b/1"  # it has never run
        assert (await b.all.take()).name == "a/0"  # of the device that runs none, since 0.0
        assert (await b.all.take()).name == "b/0"  # since 1.0
        names = {one.name: one for one in b.every}
        await b.all.take()
        for now, name in enumerate(("a/0", "b/0", "b/1"), start=3):
            b.time.now = float(now)
            b.all.give(names[name])
        assert (await b.all.take()).name == "b/0"  # a/0 has been free for longer, but its device runs a batch

    run(body())


def test_3_what_is_out_gets_nothing_and_is_back_when_it_is_proven() -> None:
    async def body() -> None:
        b = Bench()
        b.well = False
        out, other = b.every
        b.all.take_out(out, "failed")
        assert b.all.num_in_service == 1
        assert await b.all.take() is other
        waiting = asyncio.create_task(b.all.take())
        await b.time.pass_by(100.0)
        assert b.proofs == [1.0, 3.0, 7.0, 15.0, 31.0, 63.0]  # after twice as long each time
        assert not waiting.done()
        b.well = True
        await b.time.pass_by(LONGEST_PAUSE)
        assert b.proofs[6:] == [123.0]  # but never longer than that
        assert await waiting is out
        assert b.told.events == [("out", "a/0", "failed"), ("back", "a/0")]

    run(body())


@pytest.mark.parametrize(("served", "pause"), [(STEADY_SECONDS - 1, 4.0), (STEADY_SECONDS + 1, 1.0)])
def test_3_who_fails_soon_again_waits_longer_who_has_served_for_a_minute_does_not(served: float, pause: float) -> None:
    async def body() -> None:
        b = Bench()
        b.well = False
        one = b.every[0]
        b.all.take_out(one, "failed")
        await b.time.pass_by(2.0)
        b.well = True
        await b.time.pass_by(1.0)
        assert not one.is_out
        await b.time.pass_by(served)
        b.all.take_out(one, "failed")
        at = b.time.now
        await b.time.pass_by(10.0)
        assert b.proofs[2:] == [at + pause]

    run(body())


def test_3_a_device_with_one_that_is_out_is_the_last_to_be_asked() -> None:
    async def body() -> None:
        b = Bench(of_each=2)
        b.all.take_out(b.every[0], "failed")
        assert [(await b.all.take()).name for _ in range(3)] == ["b/0", "a/1", "b/1"]

    run(body())


def test_4_a_batch_that_is_stuck_takes_out_its_instance_but_not_the_last() -> None:
    async def body() -> None:
        b = Bench()

        async def batch() -> None:
            one = await b.all.take()
            task = asyncio.current_task()
            assert task
            b.all.begin_batch(one, task)
            await asyncio.Event().wait()

        tasks = [asyncio.create_task(batch()) for _ in range(2)]
        await settle()
        b.time.now = 30.0
        b.all.take_out_stuck(30.0)
        assert b.all.num_in_service == 2
        assert b.all.well(30.0)
        b.time.now = 30.5
        b.well = False
        b.all.take_out_stuck(30.0)
        await settle()
        assert [task.cancelled() for task in tasks] == [True, False]
        assert [one.is_out for one in b.every] == [True, False]
        assert not b.all.well(30.0)  # the last one is stuck, too
        assert b.told.events == [("out", "a/0", "stuck")]
        tasks[1].cancel()

    run(body())


def test_4_who_cannot_prove_itself_is_out_though_it_is_the_last_and_everybody_is_told() -> None:
    async def body() -> None:
        b = Bench(("a",))
        one = await b.all.take()
        waiting = asyncio.create_task(b.all.take())
        await settle()
        await b.all.examine(one)
        assert not one.is_out
        b.well = False
        await b.all.examine(one)
        assert not one.is_out  # not so soon again
        b.time.now += EXAMINE_SECONDS
        await b.all.examine(one)
        assert one.is_out
        for task in (waiting, b.all.take(), b.all.take(again=True), b.all.take(again=True, holds=True)):
            with pytest.raises(NoneInService):
                await task
        assert not b.all.well(30.0)
        b.all.give(one)  # whose batch was on it
        b.well = True
        await b.time.pass_by(1.0)
        assert await b.all.take() is one

    run(body())


def test_4_who_holds_one_that_is_suspect_is_told_when_no_other_is_left_and_others_wait_for_it() -> None:
    async def body() -> None:
        b = Bench()
        suspect, other = await b.all.take(), await b.all.take()
        b.all.suspect(suspect)
        holding = asyncio.create_task(b.all.take(again=True, holds=True))
        waiting, again = asyncio.create_task(b.all.take()), asyncio.create_task(b.all.take(again=True))
        await settle()
        b.all.take_out(other, "failed")
        with pytest.raises(NoneInService):
            await holding
        b.all.clear(suspect)
        b.all.give(suspect)
        assert await again is suspect  # before who waits with rows that have not run
        assert not waiting.done()
        waiting.cancel()

    run(body())


def test_one_is_held_for_work_of_another_kind_and_gets_no_batch_meanwhile() -> None:
    async def body() -> None:
        b = Bench()
        busy = await b.all.take()
        holding = asyncio.create_task(b.all.hold(busy))
        waiting = [asyncio.create_task(b.all.take()) for _ in range(2)]
        await settle()
        b.all.give(busy)
        await settle()
        assert holding.done()  # before those who would take any
        b.time.now = 1e3
        assert b.all.well(30.0)  # it is not stuck, however long that takes
        assert await waiting[0] is not busy
        b.all.give(busy)
        assert await waiting[1] is busy
        holding = asyncio.create_task(b.all.hold(busy))
        await settle()
        b.all.take_out(busy, "failed")
        assert not await holding
        assert not await b.all.hold(busy)

    run(body())


def test_nobody_comes_back_to_a_server_that_stops() -> None:
    async def body() -> None:
        b = Bench()
        b.all.take_out(b.every[0], "failed")
        await settle()
        b.all.close()
        await b.time.pass_by(100.0)
        assert b.proofs == []

    run(body())
