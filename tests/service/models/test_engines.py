"""Engines of one bundle on several instances, with an engine that is none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentserve.errors import BundleError
from service.engine.providers import DeviceConfig
from service.models.engines import Engines, Workers
from service.models.queues import ModelQueues
from service.observing.instance_metrics import InstanceMetrics
from service.observing.metrics import Metrics
from service.scheduling.instances import Instances, instances_of
from service.scheduling.queue import Piece
from tests.fakes import FakeTime, rows

WANTS = frozenset({"out"})


class PretendedEngine:
    """Notes in which thread, for which device, what was done; `bad` devices give wrong golden rows."""

    did: list[tuple[str, str, str]]
    bad: set[str]

    def __init__(self, folder: Path, manifest: Any, config: DeviceConfig) -> None:
        self.device, self.execution_provider, self.pad_seconds = config.device, "Pretended", 0.0
        self._note("open")

    def _note(self, what: str) -> None:
        self.did.append((self.device, what, threading.current_thread().name.rpartition("_")[0]))

    def check_golden(self, golden: Any) -> None:
        self._note("golden")
        if self.device in self.bad:
            raise BundleError("golden rows come out otherwise")

    def warm_up(self) -> None:
        self._note("warm")

    def run(self, given: str, pieces: Sequence[Piece]) -> Any:
        self._note("run")
        return [{"out": piece.rows + 1} for piece in pieces]

    def padding(self, num_rows: int) -> int:
        return 0


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> type[PretendedEngine]:
    PretendedEngine.did, PretendedEngine.bad = [], set()
    monkeypatch.setattr("service.models.engines.Engine", PretendedEngine)
    monkeypatch.setattr("service.models.engines.bundle.load_golden", lambda *asked: {})
    monkeypatch.setattr("service.models.engines.has_driver", lambda: True)
    return PretendedEngine


class Bench:
    """Two GPUs that are none."""

    def __init__(self) -> None:
        self.time, self.metrics = FakeTime(), Metrics()
        every = instances_of(["cuda:0", "cuda:1"], 1)
        observer = InstanceMetrics(self.metrics, every)
        self.instances = Instances(every, lambda one: self.queues.prove(one), observer, self.time, self.time.sleep)
        self.queues = ModelQueues(self.metrics, self.instances)
        self.workers = Workers(self.instances, ThreadPoolExecutor(1), loop=asyncio.get_running_loop())
        self.engines = self.more()

    def more(self) -> Engines:
        return Engines(Path("m"), SimpleNamespace(name="m"), DeviceConfig("cuda:0", 1, 4), self.workers)  # type: ignore[arg-type]

    def value(self, name: str, device: str, **more: str) -> float | None:
        labels = {"device": device, "number": "0"} | more
        return self.metrics.registry.get_sample_value(f"latentserve_instance_{name}", labels)

    def serve(self, engines: Engines) -> None:
        model: Any = SimpleNamespace(engines=engines, key=("m", 1), queues={}, manifest=None)
        self.queues.start(model, None)  # type: ignore[arg-type]


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 30))


def test_each_is_opened_proven_and_warmed_up_in_the_thread_that_runs_its_batches(
    pretended: type[PretendedEngine],
) -> None:
    async def body() -> None:
        b = Bench()
        busy = await b.instances.take()
        opening = asyncio.create_task(asyncio.to_thread(b.engines.open_all))
        while b.instances._wanted == {}:
            await asyncio.sleep(0.001)
        assert pretended.did == []  # a GPU that runs a batch is waited for
        b.instances.give(busy)
        assert await opening == "Pretended"
        for one in b.instances.every:
            cost = SimpleNamespace(padded=lambda rows, seconds: None)
            (got,) = await b.engines.execute(one, "input", cost, [Piece(rows(1), WANTS)])
            assert got["out"][0, 0] == 2
        for device in ("cuda:0", "cuda:1"):
            did = [(what, thread) for at, what, thread in pretended.did if at == device]
            thread = f"engine-{device}/0"
            assert did == [(what, thread) for what in ("open", "golden", "warm", "run")]
        assert [one.state for one in b.instances.every] == ["free", "free"]
        assert b.workers.shutdown()

    run(body())


def test_a_bundle_that_comes_out_wrong_on_one_device_is_not_served(pretended: type[PretendedEngine]) -> None:
    async def body() -> None:
        b = Bench()
        pretended.bad = {"cuda:1"}
        with pytest.raises(BundleError):
            await asyncio.to_thread(b.engines.open_all)
        assert [one.state for one in b.instances.every] == ["free", "free"]
        b.workers.shutdown()

    run(body())


def test_a_reload_leaves_out_what_is_out_of_service_which_opens_it_before_it_is_back(
    pretended: type[PretendedEngine],
) -> None:
    async def body() -> None:
        b = Bench()
        await asyncio.to_thread(b.engines.open_all)
        b.serve(b.engines)
        pretended.bad = {"cuda:0"}
        b.instances.take_out(b.instances.every[0], "failed")
        later = b.more()
        pretended.did.clear()
        assert await asyncio.to_thread(later.open_all) == "Pretended"
        assert {device for device, *_ in pretended.did} == {"cuda:1"}
        b.serve(later)
        await b.time.pass_by(1.0)
        await asyncio.sleep(0.1)
        assert (b.value("in_service", "cuda:0"), b.value("in_service", "cuda:1")) == (0, 1)
        assert b.value("outages_total", "cuda:0", reason="failed") == 1
        pretended.bad = set()
        while b.instances.every[0].is_out:
            await b.time.pass_by(2.0)
            await asyncio.sleep(0.01)
        assert ("cuda:0", "open", "engine-cuda:0/0") in pretended.did
        assert b.value("in_service", "cuda:0") == 1
        b.workers.shutdown()

    run(body())


def test_what_an_instance_ran_is_counted(pretended: type[PretendedEngine]) -> None:
    async def body() -> None:
        b = Bench()
        observer = InstanceMetrics(b.metrics, b.instances.every)
        observer.ran(b.instances.every[1], 0.5, True)
        observer.ran(b.instances.every[1], 0.25, False)
        assert b.value("busy_seconds_total", "cuda:1") == 0.75
        assert [b.value("batches_total", "cuda:1", outcome=one) for one in ("ran", "failed")] == [1, 1]
        assert b.value("busy_seconds_total", "cuda:0") == 0
        b.workers.shutdown()

    run(body())


def test_a_thread_that_a_batch_is_stuck_in_does_not_keep_the_server(
    pretended: type[PretendedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.engines.STUCK_SECONDS", 0.05)

    async def body() -> None:
        b, gate = Bench(), threading.Event()
        one = b.instances.every[0]
        stuck = asyncio.create_task(b.workers.in_thread(one, gate.wait))
        await asyncio.sleep(0.01)
        b.instances.take_out(one, "stuck")
        assert not b.workers.shutdown()
        gate.set()
        await stuck

    run(body())
