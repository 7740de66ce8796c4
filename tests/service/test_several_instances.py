"""A server in this process with two instances on the CPU: what it answers, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from latentserve.client import AsyncClient
from latentserve.errors import BundleError
from service.__main__ import serve
from service.config import Config, load_config
from service.engine.engine import Engine
from service.server import Server

NAME = "digits-vae"
SECONDS = 60


@pytest.fixture
def config(versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a repository with version 1, and two cores whatever this machine has."""
    monkeypatch.setattr("service.config.available_cpus", lambda: 2)
    monkeypatch.setattr("service.api.model_health.EVERY_SECONDS", 0.05)
    shutil.copytree(versions / "1", tmp_path / "models" / NAME / "1")
    given = ["--device", "cpu", "--instances", "2", "--port", "0", "--metrics-port", "0", "--max-batch-rows", "8"]
    return load_config(["--models", str(tmp_path / "models"), *given, "--stuck-batch-seconds", "0.5"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)


def value(server: Server, name: str, number: int, **more: str) -> float | None:
    labels = {"device": "cpu", "number": str(number)} | more
    return server.metrics.registry.get_sample_value(f"latentserve_instance_{name}", labels)


async def health(server: Server, service: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


async def embedded(server: Server, rows: NDArray[np.uint8], calls: int = 8) -> list[NDArray[np.float32]]:
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        return list(await asyncio.gather(*(client.embed(rows) for _ in range(calls))))


def engines(server: Server, version: int = 1) -> dict[int, Engine]:
    return server.repository.models[NAME][version].engines._of


def test_both_are_proven_before_ready_share_the_cores_and_answer_alike(
    config: Config, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    for name in ("check_golden", "warm_up"):
        real = getattr(Engine, name)
        monkeypatch.setattr(Engine, name, lambda *asked, real=real, name=name: (did.append(name), real(*asked))[1])

    async def run() -> None:
        async with Server(config) as server:
            assert did == ["check_golden", "warm_up"] * 2
            found = engines(server)
            sessions = {id(runner._session) for engine in found.values() for runner in engine._runners.values()}
            assert len(sessions) == 2 * len(found[0]._runners)
            threads = [
                runner._session.get_session_options().intra_op_num_threads
                for engine in found.values()
                for runner in engine._runners.values()
            ]
            assert set(threads) == {1}
            answers = await embedded(server, digits[:64])
            expected = found[1].run("input", [_piece(digits[:8])])[0]["embedding"]
            for answer in answers:
                np.testing.assert_allclose(answer[:8], expected, atol=1e-5)
                np.testing.assert_allclose(answer, answers[0], atol=1e-5)
            batches = [value(server, "batches_total", number, outcome="ran") for number in (0, 1)]
            assert all(batches), batches
            assert [await health(server, name) for name in ("", "cpu/0", "cpu/1")] == [1, 1, 1]

    asyncio.run(asyncio.wait_for(run(), SECONDS))


def _piece(rows: NDArray[np.uint8]) -> Any:
    from service.scheduling.queue import Piece

    return Piece(rows, frozenset({"embedding"}))


def test_one_that_fails_is_out_and_its_rows_are_answered_by_the_other_until_it_is_mended(
    config: Config, digits: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with Server(config) as server:
            engine = engines(server)[0]

            def broken(*asked: Any) -> Any:
                raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

            engine.run = broken  # type: ignore[method-assign]
            assert [len(one) for one in await embedded(server, digits[:32])] == [32] * 8

            async def says_so() -> bool:
                return await health(server, "cpu/0") == 2

            await until(says_so)
            assert await health(server, "") == await health(server, NAME) == 1
            assert server.is_ready()
            assert [value(server, "in_service", number) for number in (0, 1)] == [0, 1]
            assert value(server, "outages_total", 0, reason="failed") == 1
            assert value(server, "batches_total", 0, outcome="failed") == 1
            failed = {"model": NAME, "version": "1", "queue": "input", "reason": "failed"}
            assert server.metrics.registry.get_sample_value("latentserve_dropped_rows_total", failed) == 0
            del engine.run  # mended

            async def is_back() -> bool:
                return await health(server, "cpu/0") == 1

            await until(is_back)
            assert value(server, "in_service", 0) == 1

    asyncio.run(asyncio.wait_for(run(), SECONDS))
    assert "cpu/0 is out of service (failed), 1 of 2 are in" in caplog.text


def test_one_that_hangs_is_out_and_does_not_keep_the_server_when_it_stops(
    config: Config, digits: NDArray[np.uint8]
) -> None:
    gate = threading.Event()

    async def run() -> None:
        async with Server(config) as server:
            real = engines(server)[0].run

            def hangs(*asked: Any) -> Any:
                gate.wait()
                return real(*asked)

            engines(server)[0].run = hangs  # type: ignore[method-assign]
            assert [len(one) for one in await embedded(server, digits[:32])] == [32] * 8
            assert value(server, "outages_total", 0, reason="stuck") == 1
        assert not server.has_ended

    try:
        asyncio.run(asyncio.wait_for(run(), SECONDS))
    finally:
        gate.set()


def test_a_new_version_is_loaded_on_both_while_calls_go_on_and_draining_answers_what_was_accepted(
    config: Config, versions: Path, digits: NDArray[np.uint8]
) -> None:
    async def run() -> None:
        async with Server(config) as server:
            asked = [asyncio.create_task(embedded(server, digits[:64], 4)) for _ in range(2)]
            shutil.copytree(versions / "2", config.models / NAME / "2")
            server.reload()

            async def is_loaded() -> bool:
                return 2 in server.repository.models[NAME]

            await until(is_loaded)
            assert sorted(engines(server, 2)) == [0, 1]
            for task in asked:
                assert [len(one) for one in await task] == [64] * 4
            async with AsyncClient(f"127.0.0.1:{server.port}") as client:
                late = [asyncio.create_task(client.embed(digits[:64])) for _ in range(4)]
                await asyncio.sleep(0.05)
                await server.__aexit__(None, None, None)
                got = await asyncio.gather(*late, return_exceptions=True)
            assert all(isinstance(one, np.ndarray) for one in got), got
            assert server.has_ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "__aexit__", _once(Server.__aexit__))
        asyncio.run(asyncio.wait_for(run(), SECONDS))


def _once(leave: Any) -> Any:
    left: list[bool] = []

    async def maybe(self: Server, *asked: Any) -> None:
        if not left:
            left.append(True)
            await leave(self, *asked)

    return maybe


def test_a_bundle_whose_golden_rows_come_out_wrong_on_the_second_is_not_served(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Engine] = []

    def check(self: Engine, golden: Any) -> None:
        checked.append(self)
        if len(checked) == 2:
            raise BundleError("golden rows: embedding is off")

    monkeypatch.setattr(Engine, "check_golden", check)

    async def run() -> None:
        with pytest.raises(BundleError, match="none of 1 bundles"):
            async with Server(config):
                pass

    asyncio.run(asyncio.wait_for(run(), SECONDS))


@pytest.mark.parametrize(("has_ended", "left"), [(True, []), (False, [0])])
def test_a_thread_that_nothing_can_end_does_not_keep_the_process(
    has_ended: bool, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drained:
        port = metrics_port = 0

        def __init__(self, *asked: Any, **more: Any) -> None:
            self.has_ended = has_ended

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *asked: Any) -> None:
            pass

        async def until_signal(self) -> None:
            pass

    statuses: list[int] = []
    monkeypatch.setattr("service.__main__.Server", Drained)
    monkeypatch.setattr("service.__main__.os._exit", statuses.append)
    monkeypatch.setattr("service.__main__.logging.shutdown", lambda: None)
    asyncio.run(serve(load_config(["--models", "nowhere"]), []))
    assert statuses == left
