from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from latentserve import bundle
from training.__main__ import Options, run_training
from training.augmentations import STILL, ViewConfig
from training.data import DataError, decoding, load_data
from training.data.lazy import is_lazy
from training.methods.deepcluster import DeepCluster, DeepClusterConfig, cluster_loss
from training.running import checkpoint
from training.running.diary import Diary
from training.running.regrouping import features_of_all
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

VIEWS = ViewConfig(crop_area_min=0.9, rotation_degrees=5.0, shear=0.0, elastic=0.0)
SMALL = DeepClusterConfig(width=4, num_clusters=12, pca_dim=8, learning_rate=1e-2, views=VIEWS)


def train(folder: Path, *, config: DeepClusterConfig = SMALL, resume: bool = False, **loop: Any) -> Path:
    data = loop.pop("data", "digits")
    options = Options(run=folder, data=data, resume=resume, loop=LoopConfig(**{"epochs": 3, "batch_rows": 64} | loop))
    return run_training("deepcluster", config, options)


def test_the_loss_is_equation_1() -> None:
    torch.manual_seed(0)
    logits, clusters = torch.randn(9, 5) * 3, torch.randint(5, (9,))
    terms = [math.log(float(row.exp().sum())) - float(row[k]) for row, k in zip(logits, clusters, strict=True)]
    assert cluster_loss(logits, clusters).item() == pytest.approx(np.mean(terms), abs=1e-5)
    assert cluster_loss(torch.zeros(9, 5), clusters).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_clusters": 1}, "num_clusters: got 1, expected 2 or more"),
        ({"pca_dim": 0}, "pca_dim: got 0, expected above 0"),
        ({"iterations": 0}, "iterations: got 0, expected above 0"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepClusterConfig(**config)


def test_more_clusters_than_rows_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num_clusters: got 2000 for 1197 training rows, expected at most one for each"):
        train(tmp_path / "run", config=replace(SMALL, num_clusters=2000))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "deepcluster")


GOLDEN_LOSSES = (2.08134, 1.72796, 2.15871)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the views, the network or the loop: say so in the commit."""
    losses = [row["loss"] for row in open_run(run)[1].history]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_training_learns_to_tell_the_clusters_of_views(run: Path) -> None:
    _, trained = open_run(run)
    assert trained.history[-1]["cluster_accuracy"] > 2 / SMALL.num_clusters
    assert trained.history[-1]["clusters_used"] == SMALL.num_clusters
    assert 0.2 < trained.test["test_same_cluster"] < 1


def test_a_resumed_run_finds_the_same_clusters_and_ends_with_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., None] = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    whole, resumed = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_each_epoch_begins_with_a_new_head_and_without_its_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[torch.Tensor, int]] = []
    original = DeepCluster.regroup

    def regroup(self: DeepCluster, features: torch.Tensor, epoch: int) -> Any:
        found = original(self, features, epoch)
        begun.append((self.head.weight.detach().clone(), len(self.trainer.optimizers[0].state)))
        assert self.head.bias.eq(0).all()
        return found

    monkeypatch.setattr(DeepCluster, "regroup", regroup)
    train(tmp_path / "run", epochs=2)
    (first, none), (second, num) = begun
    assert not torch.equal(first, second)
    assert second.std().item() == pytest.approx(0.01, rel=0.2)
    assert none == 0
    parameters = sum(1 for _ in load_model(tmp_path / "run", open_run(tmp_path / "run")[0]).parameters())  # type: ignore[attr-defined]
    assert num == parameters - 2


def test_every_option_changes_the_result(tmp_path: Path) -> None:
    def loss(name: str, **changed: Any) -> float:
        folder = train(tmp_path / name, config=replace(SMALL, **changed), epochs=1)
        return open_run(folder)[1].history[0]["loss"]

    losses = [
        loss("as it is"),
        loss("num_clusters", num_clusters=11),
        loss("pca_dim", pca_dim=4),
        loss("iterations", iterations=1),
        loss("learning_rate", learning_rate=1e-3),
        loss("weight_decay", weight_decay=1.0),
        loss("views", views=STILL),
        loss("width", width=3),
    ]
    assert len({round(value, 6) for value in losses}) == len(losses)


def test_features_are_those_of_the_image_itself_and_leave_nothing_behind(run: Path) -> None:
    model: Any = open_run(run)[0].build()
    model.trainer = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))
    rows = torch.randint(0, 256, (50, 8, 8, 1), dtype=torch.uint8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    got = features_of_all(model, rows, 7)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval().encode(rows.movedim(3, 1) / 255).embedding
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_rows_that_are_decoded_give_the_weights_of_memory(
    tmp_path: Path, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(60):
        (tmp_path / "photos" / f"{i}.png").write_bytes(encode(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)))

    def weights(name: str) -> dict[str, torch.Tensor]:
        options = Options(
            data=f"folder:{tmp_path / 'photos'}",
            image_size=8,
            run=tmp_path / name,
            loop=LoopConfig(epochs=2, batch_rows=16),
        )
        return checkpoint.state_dict(run_training("deepcluster", SMALL, options) / CHECKPOINT)

    held = weights("held")
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    assert is_lazy(load_data(f"folder:{tmp_path / 'photos'}", image_size=8).train.values)
    lazy = weights("lazy")
    assert all(torch.equal(held[name], lazy[name]) for name in held)


def test_it_is_exported_with_parity_and_without_a_decoder(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path, report="none", promise=Promise(detectors=("mahalanobis",)))
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "scorer"}
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["embedding", "patches"]
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)["embedding"]
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255).embedding  # type: ignore[operator]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
