from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from prometheus_client import generate_latest

from latentserve import bundle
from latentserve.bundle import Graph
from latentserve.errors import BundleError, InvalidInput, ModelNotFound
from latentserve.v1 import embedding_pb2 as pb
from service.api.embedding import EmbeddingServicer
from service.api.inference import Context, Inference
from service.config import load_config
from service.engine.engine import Engine
from service.engine.providers import DeviceConfig, DeviceError, Sessions, open_sessions
from service.models.engines import Workers
from service.models.model import ModelsConfig
from service.models.repository import Repository, scan
from service.observing.metrics import Metrics
from service.scheduling.decoding_queue import DecodingQueue
from service.scheduling.instances import Instances


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(Instances(), ThreadPoolExecutor(1))
    yield made
    made.shutdown()


def config(models: Path) -> ModelsConfig:
    return load_config(["--models", str(models), "--device", "cpu", "--max-batch-rows", "8"]).models_config


def load_repository(config: ModelsConfig, metrics: Metrics, workers: Workers) -> Repository:
    """All that can be served."""
    repository = Repository()
    repository.take(scan(config, metrics, workers, repository))
    return repository


def test_a_broken_bundle_is_refused_by_name_and_the_good_ones_serve(copied_bundle: Path, workers: Workers) -> None:
    models = copied_bundle.parents[1]
    broken = models / "digits-vae" / "2"
    shutil.copytree(copied_bundle, broken)
    (models / "other" / "1").mkdir(parents=True)
    (models / "digits-vae" / ".3.tmp").mkdir()
    metrics = Metrics()
    repository = load_repository(config(models), metrics, workers)
    assert [(one.name, one.version) for one in repository.rejected] == [("digits-vae", 2), ("other", 1)]
    assert metrics.registry.get_sample_value("latentserve_rejected_bundles") == 2
    assert repository.find("", 0).manifest.version == 1  # the newest that can be served
    with pytest.raises(BundleError, match="digits-vae version 2 was rejected: .*expected digits-vae/2"):
        repository.find("digits-vae", 2)
    with pytest.raises(BundleError, match="other version 1 was rejected: .*bundle.json: missing"):
        repository.find("other", 0)


def test_names_that_are_no_utf8_spoil_no_answer(copied_bundle: Path, workers: Workers) -> None:
    manifest = copied_bundle / "bundle.json"
    said = json.loads(manifest.read_text())
    said["provenance"]["data"] = "folder:/data/" + os.fsdecode(b"caf\xe9")
    manifest.write_text(json.dumps(said))
    models = copied_bundle.parents[1]
    (Path(os.fsdecode(bytes(models) + b"/gr\xfcn")) / "1").mkdir(parents=True)
    settings = config(models)
    repository = load_repository(settings, Metrics(), workers)
    inference = Inference(repository, Metrics())
    servicer = EmbeddingServicer(inference, repository, 2**20)
    answer = asyncio.run(servicer.list_models(pb.ListModelsRequest(), Context("ListModels")))
    assert answer.models[0].data == r"folder:/data/caf\xe9"
    assert (answer.rejected[0].name, "gr" + r"\xfcn/1" in answer.rejected[0].reason) == (r"gr\xfcn", True)
    assert pb.ListModelsResponse.FromString(answer.SerializeToString()) == answer


def test_golden_rows_that_do_not_hold_refuse_the_bundle(
    copied_bundle: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(self: object, golden: object) -> None:
        raise BundleError("golden rows: embedding is 1 off")

    monkeypatch.setattr("service.engine.engine.Engine.check_golden", off)
    with pytest.raises(BundleError, match="none of 1 bundles"):
        load_repository(config(copied_bundle.parents[1]), Metrics(), workers)


def test_a_repository_without_bundles_is_an_error(tmp_path: Path, workers: Workers) -> None:
    with pytest.raises(BundleError, match="got no bundle under .*expected <name>/<version>/bundle.json"):
        load_repository(config(tmp_path), Metrics(), workers)
    with pytest.raises(BundleError, match="expected a folder"):
        load_repository(config(tmp_path / "nowhere"), Metrics(), workers)


def test_what_is_not_there_is_said_with_what_is(copied_bundle: Path, workers: Workers) -> None:
    repository = load_repository(config(copied_bundle.parents[1]), Metrics(), workers)
    with pytest.raises(ModelNotFound, match=r"model.name: got 'x', expected one of \['digits-vae'\]"):
        repository.find("x", 0)
    with pytest.raises(ModelNotFound, match=r"model.version: got 9 of 'digits-vae', expected one of \[1\]"):
        repository.find("digits-vae", 9)
    with pytest.raises(InvalidInput, match="model.version: got -1"):
        repository.find("digits-vae", -1)
    with pytest.raises(InvalidInput, match="model.name: got no name"):
        Repository(models={"a": {}, "b": {}}).find("", 0)


def test_a_second_look_opens_what_is_new_and_nothing_else(copied_bundle: Path, workers: Workers) -> None:
    models, metrics = copied_bundle.parents[1], Metrics()
    repository = load_repository(config(models), metrics, workers)
    served = repository.find("digits-vae", 1)
    (models / "other" / "1").mkdir(parents=True)
    found = scan(config(models), metrics, workers, repository)
    assert (found.loaded, found.unloaded, [one.name for one in found.rejected]) == ([], [], ["other"])
    assert repository.rejected == []  # not before it is taken
    repository.take(found)
    assert repository.rejected == found.rejected
    assert repository.find("digits-vae", 1) is served


def test_the_last_model_is_not_given_up(copied_bundle: Path, workers: Workers, tmp_path: Path) -> None:
    models, metrics = copied_bundle.parents[1], Metrics()
    repository = load_repository(config(models), metrics, workers)
    (models / "other" / "1").mkdir(parents=True)
    copied_bundle.rename(tmp_path / "put-away")
    with pytest.raises(BundleError, match="none of 1 bundles"):
        scan(config(models), metrics, workers, repository)
    assert repository.find("digits-vae", 0).key == ("digits-vae", 1)


def edit(folder: Path, **fields: Any) -> None:
    """Changes the manifest, all hashes right."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text()) | fields
    manifest["files"] = {name: bundle.sha256_of_file(folder / name) for name in manifest["files"]}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def golden(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    arrays = dict(np.load(folder / bundle.GOLDEN))
    change(arrays)
    np.savez(folder / bundle.GOLDEN, **arrays)


def detector(folder: Path, **fields: Any) -> list[dict[str, Any]]:
    return [one | fields for one in json.loads((folder / bundle.MANIFEST).read_text())["detectors"]]


def no_input(folder: Path) -> None:
    golden(folder, lambda arrays: arrays.pop("input"))
    edit(folder)


def another_shape(folder: Path) -> None:
    golden(folder, lambda arrays: arrays.update(input=arrays["input"][:, :4]))
    edit(folder)


def no_rows(folder: Path) -> None:
    golden(folder, lambda arrays: arrays.update({name: array[:0] for name, array in arrays.items()}))
    edit(folder)


def golden_of_text(folder: Path) -> None:
    golden(folder, lambda arrays: arrays.update(embedding=np.array(["a"] * 8)))
    edit(folder)


def golden_cut(folder: Path) -> None:
    (folder / bundle.GOLDEN).write_bytes((folder / bundle.GOLDEN).read_bytes()[:-100])
    edit(folder)


def golden_is_one_array(folder: Path) -> None:
    with (folder / bundle.GOLDEN).open("wb") as file:
        np.save(file, np.zeros(3))
    edit(folder)


def nested(folder: Path) -> None:
    edit(folder, evaluations="DEEP")
    text = (folder / bundle.MANIFEST).read_text()
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    (folder / bundle.MANIFEST).write_text(text.replace('"DEEP"', deep))


def many_digits(folder: Path) -> None:
    edit(folder, default_alpha="MANY")
    text = (folder / bundle.MANIFEST).read_text()
    (folder / bundle.MANIFEST).write_text(text.replace('"MANY"', "9" * 5000))


def outside(folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    onnx.save(model, folder / "encoder.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    edit(folder)


FAULTS: dict[str, Callable[[Path], None]] = {
    "delta 0.001": lambda folder: edit(folder, detectors=detector(folder, delta=0.001, adjustment="monte_carlo")),
    "delta nan": lambda folder: edit(folder, detectors=detector(folder, delta=float("nan"))),
    "no calibration row": lambda folder: edit(folder, detectors=detector(folder, num_calibration_rows=0)),
    "large number": lambda folder: edit(folder, default_alpha=10**400),
    "half a character": lambda folder: edit(folder, embedding_space="\ud800"),
    "bytes of a name": lambda folder: edit(folder, embedding_space="\udce9"),
    "manifest is a list": lambda folder: (folder / bundle.MANIFEST).write_text("[]") and None,
    "manifest is no text": lambda folder: (folder / bundle.MANIFEST).write_bytes(b"\xff\xfe") and None,
    "manifest is a pipe": lambda folder: ((folder / bundle.MANIFEST).unlink(), os.mkfifo(folder / bundle.MANIFEST))[1],
    **{
        one.__name__: one
        for one in (
            *(no_input, another_shape, no_rows, golden_of_text, golden_cut, golden_is_one_array),
            *(nested, many_digits, outside),
        )
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_wrong_with_a_bundle_the_one_beside_it_serves(
    copied_bundle: Path, workers: Workers, fault: str
) -> None:
    bad = copied_bundle.with_name("2")
    shutil.copytree(copied_bundle, bad)
    edit(bad, version=2)
    FAULTS[fault](bad)
    metrics = Metrics()
    repository = load_repository(config(copied_bundle.parents[1]), metrics, workers)
    assert [model.key for model in repository.served()] == [("digits-vae", 1)]
    ((name, version, reason),) = ((one.name, one.version, one.reason) for one in repository.rejected)
    assert (name, version) == ("digits-vae", 2)
    assert str(bad) in reason
    assert "cannot be loaded" not in reason, "each of these has a sentence of its own"
    assert 'version="2"' not in generate_latest(metrics.registry).decode()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("bad allocation"), KeyError("x"), RecursionError()])
def test_a_failure_that_nobody_foresaw_refuses_the_bundle_that_had_it(
    copied_bundle: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Running out of memory at warm-up, say."""
    shutil.copytree(copied_bundle, copied_bundle.with_name("2"))
    edit(copied_bundle.with_name("2"), version=2)
    real = Engine.warm_up

    def warm_up(engine: Engine) -> None:
        if engine.manifest.version == 2:
            raise error
        real(engine)

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    repository = load_repository(config(copied_bundle.parents[1]), Metrics(), workers)
    assert [model.key for model in repository.served()] == [("digits-vae", 1)]
    assert f"2: cannot be loaded: {type(error).__name__}" in repository.rejected[0].reason


def test_what_fails_after_it_was_announced_leaves_no_metric(
    copied_bundle: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(manifest: object, calibration: object) -> None:
        raise MemoryError

    monkeypatch.setattr("service.models.model.DecisionPolicy", fails)
    metrics = Metrics()
    with pytest.raises(BundleError, match="none of 1 bundles"):
        load_repository(config(copied_bundle.parents[1]), metrics, workers)
    assert "digits-vae" not in generate_latest(metrics.registry).decode()


def test_a_device_that_is_there_for_one_bundle_and_not_for_another(
    copied_bundle: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that the device does not take is its bundle's fault; a device that takes none is not there."""
    shutil.copytree(copied_bundle, copied_bundle.with_name("2"))
    edit(copied_bundle.with_name("2"), version=2)
    missing = {"2"}

    def opened(folder: Path, graphs: Iterable[Graph], device: DeviceConfig) -> Sessions:
        if folder.name in missing:
            raise DeviceError("device: got no working CUDA")
        return open_sessions(folder, graphs, device)

    monkeypatch.setattr("service.engine.engine.open_sessions", opened)
    repository = load_repository(config(copied_bundle.parents[1]), Metrics(), workers)
    assert [model.key for model in repository.served()] == [("digits-vae", 1)]
    assert repository.rejected[0].reason == "device: got no working CUDA"
    missing.add("1")
    with pytest.raises(DeviceError, match="no working CUDA"):
        load_repository(config(copied_bundle.parents[1]), Metrics(), workers)


def test_a_folder_whose_name_is_no_text_or_no_number_of_ours(copied_bundle: Path, workers: Workers) -> None:
    """Its name goes into answers and onto the page of metrics, which must stay whole."""
    models = copied_bundle.parents[1]
    (models / os.fsdecode(b"caf\xe9") / "1").mkdir(parents=True)
    (models / "digits-vae" / str(2**63)).mkdir()
    repository = load_repository(config(models), Metrics(), workers)
    assert [(one.name, one.version) for one in repository.rejected] == [("caf\\xe9", 1)]
    pb.RejectedBundle(name=repository.rejected[0].name, reason=repository.rejected[0].reason)


def test_the_queues_of_a_model_hint_by_what_the_threads_have_yet_to_decode(copied_bundle: Path) -> None:
    decoding = DecodingQueue(ThreadPoolExecutor(1))
    workers = Workers(Instances(), decoding)
    made = load_repository(config(copied_bundle.parents[1]), Metrics(), workers)
    (model,) = made.served()
    assert {queue.backlog for queue in model.queues.values()} == {decoding.backlog_seconds}
    workers.shutdown()
