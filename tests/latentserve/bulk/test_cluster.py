"""A Ray cluster as the engine of a job, as far as no cluster is needed; tests/integration/test_ray.py has one."""

from __future__ import annotations

import pickle
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="the extra `bulk`")
from latentserve.bulk import cluster, engines
from latentserve.bulk.cluster import Pool, Worker, connected
from latentserve.bulk.engines import Asked
from latentserve.bulk.listing import listed
from latentserve.errors import BundleError, InvalidInput, Unsupported
from tests.latentserve.bulk.answering import FakeEngine, files

EMBEDDING = Asked(("embedding",))
BUNDLE = Path("models/fake/1")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "QUIET", {})


def with_ray(monkeypatch: pytest.MonkeyPatch, version: str, init: Any) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    ray, data = ModuleType("ray"), ModuleType("ray.data")
    for name, value in {"init": init, "shutdown": lambda: None, "data": data}.items():
        setattr(ray, name, value)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = r"ray: it is missing: pip install 'latentserve\[ray\]'"
    with pytest.raises(Unsupported, match=told), connected(Pool("auto"), BUNDLE, EMBEDDING, "auto"):
        pass


@pytest.mark.parametrize(("version", "told"), [("2.9.3", "got 2.9.3, expected 2.60 or newer"), ("1.13.0", "got 1.13")])
def test_a_ray_that_is_too_old_is_told(version: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ray(monkeypatch, version, None)
    with pytest.raises(Unsupported, match=told), connected(Pool("auto"), BUNDLE, EMBEDDING, "auto"):
        pass


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str, **_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    with_ray(monkeypatch, "2.60.0", init)
    for address, told in (
        ("auto", r"ray: got 'auto', expected the address of a cluster \(Could not find any running Ray instance.\)"),
        ("127.0.0.1:1", "ray: got '127.0.0.1:1', expected the address of a cluster .*refused"),
    ):
        with pytest.raises(InvalidInput, match=told), connected(Pool(address), BUNDLE, EMBEDDING, "auto"):
            pass


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (Pool("auto", actors=-1), "actors: got -1"),
        (Pool("auto", cpus=0), "actor-cpus: got 0"),
        (Pool("auto", gpus=-0.5), "actor-gpus: got -0.5"),
        (Pool("auto", gpus=-2.0), "actor-gpus: got -2.0"),
        (Pool("auto", gpus=float("nan")), "actor-gpus: got nan"),
        (Pool("auto", gpus=float("inf")), "actor-gpus: got inf"),
        (Pool("auto", gpus=1.5), "actor-gpus: got 1.5, expected 0, a fraction of one, or a whole number"),
    ],
)
def test_actors_that_cannot_be(pool: Pool, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        pool.check()


def test_an_actor_answers_its_tasks_and_tells_what_is_wrong_with_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path / "in", 3)
    items = listed(["in"])
    task = {"task": [pickle.dumps([items[:2], items[2:]])]}

    def answers(worker: Worker) -> Any:
        (found,) = worker(task)["task"]
        return pickle.loads(found)

    monkeypatch.setattr(engines, "local", lambda folder, asked, device, cpus: FakeEngine(asked))
    first, second = answers(Worker("models/fake/1", EMBEDDING, "cpu", 1, str(tmp_path)))
    assert first.sources + second.sources == [item.source for item in items]

    def broken(*_: Any) -> Any:
        raise BundleError("encoder.onnx: changed")

    monkeypatch.setattr(engines, "local", broken)
    assert str(answers(Worker("models/fake/1", EMBEDDING, "cpu", 1, str(tmp_path)))) == "encoder.onnx: changed"
    elsewhere = answers(Worker("models/fake/1", EMBEDDING, "cpu", 1, str(tmp_path / "none")))
    assert str(elsewhere).startswith(f"ray: got a machine without {tmp_path}/none, expected one that has the files")


def test_as_many_actors_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "local", lambda folder, asked, device, cpus: FakeEngine(asked))

    def actors(pool: Pool, tasks: int = 100, **resources: float) -> int:
        ray = SimpleNamespace(cluster_resources=lambda: resources)
        return cluster.Cluster(ray, pool, BUNDLE, EMBEDDING, "auto").num_actors(tasks)

    assert actors(Pool("auto", cpus=2), CPU=9.0) == 4
    assert actors(Pool("auto", cpus=2, actors=3), CPU=9.0) == 3
    assert actors(Pool("auto"), tasks=5, CPU=9.0) == 5
    assert actors(Pool("auto", gpus=0.5), CPU=9.0, GPU=2.0) == 4
    with pytest.raises(InvalidInput, match="ray: got a cluster of 9 CPUs and 0 GPUs, expected room for an actor of 1"):
        actors(Pool("auto", gpus=0.5), CPU=9.0)
