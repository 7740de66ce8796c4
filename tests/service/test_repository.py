from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from latentserve.errors import BundleError, InvalidInput, ModelNotFound
from latentserve.v1 import embedding_pb2 as pb
from service.config import Config, load_config
from service.inference import Context, Inference
from service.metrics import Metrics
from service.repository import Repository, Workers, look, open_repository
from service.servicer import Servicer


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(asyncio.Lock(), ThreadPoolExecutor(1), ThreadPoolExecutor(1))
    yield made
    made.engine.shutdown()
    made.decoding.shutdown()


def config(models: Path) -> Config:
    return load_config(["--models", str(models), "--device", "cpu", "--max-batch-rows", "8"])


def test_a_broken_bundle_is_refused_by_name_and_the_good_ones_serve(copied_bundle: Path, workers: Workers) -> None:
    models = copied_bundle.parents[1]
    broken = models / "digits-vae" / "2"
    shutil.copytree(copied_bundle, broken)
    (models / "other" / "1").mkdir(parents=True)
    (models / "digits-vae" / ".3.tmp").mkdir()
    metrics = Metrics()
    repository = open_repository(config(models), metrics, workers)
    assert [(one.name, one.version) for one in repository.refused] == [("digits-vae", 2), ("other", 1)]
    assert metrics.registry.get_sample_value("latentserve_refused_bundles") == 2
    assert repository.find("", 0).manifest.version == 1  # the newest that can be served
    with pytest.raises(BundleError, match="digits-vae version 2 was refused: .*expected digits-vae/2"):
        repository.find("digits-vae", 2)
    with pytest.raises(BundleError, match="other version 1 was refused: .*bundle.json: missing"):
        repository.find("other", 0)


def test_names_that_are_no_utf8_spoil_no_answer(copied_bundle: Path, workers: Workers) -> None:
    manifest = copied_bundle / "bundle.json"
    said = json.loads(manifest.read_text())
    said["provenance"]["data"] = "folder:/data/" + os.fsdecode(b"caf\xe9")
    manifest.write_text(json.dumps(said))
    models = copied_bundle.parents[1]
    (Path(os.fsdecode(bytes(models) + b"/gr\xfcn")) / "1").mkdir(parents=True)
    settings = config(models)
    repository = open_repository(settings, Metrics(), workers)
    inference = Inference(repository, Metrics())
    servicer = Servicer(inference, repository, settings)
    answer = asyncio.run(servicer.list_models(pb.ListModelsRequest(), cast(Context, None)))
    assert answer.models[0].data == r"folder:/data/caf\xe9"
    assert (answer.refused[0].name, "gr" + r"\xfcn/1" in answer.refused[0].reason) == (r"gr\xfcn", True)
    assert pb.ListModelsResponse.FromString(answer.SerializeToString()) == answer


def test_golden_rows_that_do_not_hold_refuse_the_bundle(
    copied_bundle: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(self: object, golden: object) -> None:
        raise BundleError("golden rows: embedding is 1 off")

    monkeypatch.setattr("service.engine.Engine.check_golden", off)
    with pytest.raises(BundleError, match="none of 1 bundles"):
        open_repository(config(copied_bundle.parents[1]), Metrics(), workers)


def test_a_repository_without_bundles_is_an_error(tmp_path: Path, workers: Workers) -> None:
    with pytest.raises(BundleError, match="got no bundle under .*expected <name>/<version>/bundle.json"):
        open_repository(config(tmp_path), Metrics(), workers)
    with pytest.raises(BundleError, match="expected a folder"):
        open_repository(config(tmp_path / "nowhere"), Metrics(), workers)


def test_what_is_not_there_is_said_with_what_is(copied_bundle: Path, workers: Workers) -> None:
    repository = open_repository(config(copied_bundle.parents[1]), Metrics(), workers)
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
    repository = open_repository(config(models), metrics, workers)
    served = repository.find("digits-vae", 1)
    (models / "other" / "1").mkdir(parents=True)
    found = look(config(models), metrics, workers, repository)
    assert (found.opened, found.gone, [one.name for one in found.refused]) == ([], [], ["other"])
    assert repository.refused == []  # not before it is taken
    repository.take(found)
    assert repository.refused == found.refused
    assert repository.find("digits-vae", 1) is served


def test_the_last_model_is_not_given_up(copied_bundle: Path, workers: Workers, tmp_path: Path) -> None:
    models, metrics = copied_bundle.parents[1], Metrics()
    repository = open_repository(config(models), metrics, workers)
    (models / "other" / "1").mkdir(parents=True)
    copied_bundle.rename(tmp_path / "put-away")
    with pytest.raises(BundleError, match="none of 1 bundles"):
        look(config(models), metrics, workers, repository)
    assert repository.find("digits-vae", 0).key == ("digits-vae", 1)


def test_a_version_that_is_forgotten_leaves_its_counts(copied_bundle: Path, workers: Workers) -> None:
    metrics = Metrics()
    open_repository(config(copied_bundle.parents[1]), metrics, workers)
    labels = {"model": "digits-vae", "version": "1", "lane": "input"}

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"latentserve_{name}", labels)

    assert (value("queue_rows"), value("batch_rows_count")) == (0, 0)
    metrics.forget("digits-vae", "1")
    assert (value("queue_rows"), value("batch_rows_count")) == (None, 0)
