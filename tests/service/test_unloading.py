"""A server in this process that lets a model go: what waited is answered, and its memory is free again."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentserve.client import Client
from service.config import Config, load_config
from service.server import Server

SECONDS = 30


@pytest.fixture
def config(versions: Path, tmp_path: Path) -> Config:
    """Of a repository with versions 1 and 2."""
    models = tmp_path / "models"
    shutil.copytree(versions, models / "digits-vae")
    return load_config(["--models", str(models), "--device", "cpu", "--port", "0", "--metrics-port", "0"])


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def score(server: Server, rows: NDArray[np.uint8], version: int) -> int:
    """Asks; the number of answers."""
    with Client(f"127.0.0.1:{server.port}") as client:
        return len(client.score(rows, version=version).p_values)


def served(server: Server) -> set[int]:
    return set(server.repository.models["digits-vae"])


def test_a_model_that_has_gone_is_freed(
    config: Config, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for Python to look for cycles: that may be hours, and the memory may be a GPU's."""
    monkeypatch.setattr("service.reload.LAST_CALLS_SECONDS", 0)

    async def run() -> None:
        async with Server(config) as server:
            assert served(server) == {1, 2}
            assert await asyncio.to_thread(score, server, digits, 1) == len(digits)
            model = server.repository.models["digits-vae"][1]
            parts = [weakref.ref(part) for part in (model, *model.queues.values(), model.policy)]
            del model
            gc.collect()
            gc.disable()
            shutil.rmtree(config.models / "digits-vae" / "1")
            server.reload()
            await until(lambda: served(server) == {2})
            await until(lambda: all(part() is None for part in parts))
            assert await asyncio.to_thread(score, server, digits, 2) == len(digits)

    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_a_backlog_of_a_model_that_has_gone_is_answered_though_the_server_stops(
    config: Config, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.reload.LAST_CALLS_SECONDS", 0)

    async def run() -> list[int]:
        async with Server(config) as server:
            waiting = {"model": "digits-vae", "version": "1", "queue": "input"}
            instances = server._workers.instances
            taken = await instances.take()  # the device is busy: everything waits
            asked = [asyncio.create_task(asyncio.to_thread(score, server, digits[:50], 1)) for _ in range(4)]
            value = server.metrics.registry.get_sample_value
            await until(lambda: value("latentserve_queue_rows", waiting) == 4 * 50)
            shutil.rmtree(config.models / "digits-vae" / "1")
            server.reload()
            await until(lambda: served(server) == {2})
            asyncio.get_running_loop().call_later(0.5, instances.give, taken)  # while it drains
        return await asyncio.gather(*asked)

    assert asyncio.run(run()) == [50] * 4
