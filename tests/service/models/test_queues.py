"""Queues that die of a fault of ours, batches that never end: logged, counted, begun again, and health knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from latentserve.client import AsyncClient
from latentserve.errors import InternalError, Unavailable
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.config import Config, load_config
from service.models.queues import MOST_FAILURES, ModelQueues, notice
from service.observing.metrics import Metrics
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.instances import Instances
from service.server import Server
from tests.fakes import FakeEngine, FakeObserver, rows

WANTS = frozenset({"out"})
LABELS = {"model": "m", "version": "1", "queue": "input"}
NAME = "digits-vae"
IMAGES = np.zeros((2, 8, 8, 1), np.uint8)
SECONDS = 30


def model_of(queue: BatchQueue) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(name="m", version=1), key=("m", 1), queues={"input": queue})


def breaks(queue: BatchQueue, times: float) -> None:
    """Its next cuts go wrong."""
    gather, left = queue._gather, [times]

    def broken(turn: Any) -> Any:
        left[0] -= 1
        return gather(turn) if left[0] < 0 else {}["a bug"]

    queue._gather = broken  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.models.queues.PAUSE_SECONDS", 1e-3)
    monkeypatch.setattr("service.api.model_health.EVERY_SECONDS", 0.05)


def test_a_queue_that_dies_is_logged_counted_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        metrics, instances = Metrics(), Instances()
        queue = BatchQueue([FakeEngine()], QueueConfig(), instances, FakeObserver())
        running, model = ModelQueues(metrics, instances), model_of(queue)
        running.start(model, QueueConfig())
        breaks(queue, 2)
        for _ in range(2):
            with pytest.raises(InternalError, match="log says why"):
                await queue.submit(rows(1), WANTS)
        assert (await queue.submit(rows(1), WANTS))["out"][0, 0] == 2
        assert running.well(model, 30.0)
        assert metrics.registry.get_sample_value("latentserve_queue_failures_total", LABELS) == 2
        await running.retire_all()

    asyncio.run(asyncio.wait_for(run(), SECONDS))
    assert "the queue m/1/input died" in caplog.text
    assert "KeyError: 'a bug'" in caplog.text  # with the traceback


def test_a_queue_that_keeps_dying_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        instances = Instances()
        queue = BatchQueue([FakeEngine()], QueueConfig(), instances, FakeObserver())
        running, model = ModelQueues(Metrics(), instances), model_of(queue)
        running.start(model, QueueConfig())
        breaks(queue, float("inf"))
        for _ in range(MOST_FAILURES + 1):
            assert running.well(model, 30.0)
            with pytest.raises(InternalError):
                await queue.submit(rows(1), WANTS)
        (work,) = running.those_of([model])
        await asyncio.gather(*work.tasks)
        with pytest.raises(Unavailable):
            await queue.submit(rows(1), WANTS)
        assert not running.well(model, 30.0)
        await running.retire_all()

    asyncio.run(asyncio.wait_for(run(), SECONDS))
    assert f"died {MOST_FAILURES + 1} times in a row and is not started again" in caplog.text


def test_whoever_dies_unnoticed_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    async def dies() -> None:
        raise ValueError("a bug")

    async def run() -> None:
        await asyncio.wait([notice(asyncio.create_task(dies(), name="keys"))])
        cancelled = notice(asyncio.create_task(asyncio.sleep(9), name="other"))
        cancelled.cancel()
        await asyncio.wait([cancelled])

    asyncio.run(run())
    assert "the task keys died" in caplog.text
    assert "ValueError: a bug" in caplog.text
    assert "other" not in caplog.text


@pytest.fixture
def config(repository: Path) -> Config:
    given = ["--device", "cpu", "--port", "0", "--metrics-port", "0", "--stuck-batch-seconds", "0.2"]
    return load_config(["--models", str(repository), *given])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)


async def statuses(server: Server) -> tuple[bool, ...]:
    """Of the model by its name, of the server, by the Open Inference Protocol, of the page of metrics."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        named, all_of_it = [
            (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == 1 for name in (NAME, "")
        ]
        call: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            open_pb.ModelReadyRequest.SerializeToString,
            open_pb.ModelReadyResponse.FromString,
        )
        ready = (await call(open_pb.ModelReadyRequest(name=NAME))).ready
    page = server.metrics.registry.get_sample_value("latentserve_model_healthy", {"model": NAME, "version": "1"})
    return named, all_of_it, ready, bool(page)


def test_a_batch_that_is_stuck_makes_the_models_unwell_until_it_ends(config: Config) -> None:
    async def run() -> None:
        async with Server(config) as server, AsyncClient(f"127.0.0.1:{server.port}") as client:
            queue, gate = server.repository.models[NAME][1].queues["input"], asyncio.Event()
            (execute,) = queue._execution._executes

            async def hangs(pieces: Any) -> Any:
                await gate.wait()
                return await execute(pieces)

            queue._execution._executes = [hangs]
            asked = asyncio.create_task(client.embed(IMAGES))

            async def unwell() -> bool:
                return not any(await statuses(server))

            async def well() -> bool:
                return all(await statuses(server))

            assert await well()
            await until(unwell)
            assert not server.is_ready()
            gate.set()
            assert len(await asked) == len(IMAGES)
            await until(well)

    asyncio.run(asyncio.wait_for(run(), SECONDS))


def test_a_model_whose_queue_is_given_up_does_not_serve(config: Config) -> None:
    async def run() -> None:
        async with Server(config) as server, AsyncClient(f"127.0.0.1:{server.port}") as client:
            breaks(server.repository.models[NAME][1].queues["input"], float("inf"))
            for _ in range(MOST_FAILURES + 1):
                with pytest.raises(InternalError):
                    await client.embed(IMAGES)

            async def unwell() -> bool:
                return not any(await statuses(server))

            await until(unwell)
            with pytest.raises(Unavailable):
                await client.embed(IMAGES)

    asyncio.run(asyncio.wait_for(run(), SECONDS))
