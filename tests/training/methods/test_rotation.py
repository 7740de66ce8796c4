from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
from training.data import ImageShape
from training.methods.rotation import Rotation, RotationConfig, rotation_loss, turned
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = RotationConfig(width=4, hidden_dim=16)


def train(folder: Path, *, config: RotationConfig = SMALL, resume: bool = False, **loop: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(**{"epochs": 3, "batch_rows": 64} | loop))
    return run_training("rotation", config, options)


def rotation(**config: Any) -> Rotation:
    torch.manual_seed(0)
    return Rotation(replace(SMALL, **config), LoopConfig(), ImageShape(8, 1))


def test_every_image_is_there_in_all_four_turns_each_with_its_answer() -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 3, 6, 6)
    found, answers = turned(images)
    assert answers.bincount().tolist() == [5, 5, 5, 5]
    for place, (image, turns) in enumerate(zip(found.numpy(), answers.tolist(), strict=True)):
        np.testing.assert_array_equal(image, np.rot90(images[place % 5].numpy(), turns, (1, 2)))


def test_the_loss_is_equation_3() -> None:
    torch.manual_seed(0)
    logits, answers = torch.randn(12, 4) * 3, torch.arange(4).repeat_interleave(3)
    terms = [math.log(sum(math.exp(float(v)) for v in row)) - float(row[y]) for row, y in zip(logits, answers)]  # noqa: B905
    assert rotation_loss(logits, answers).item() == pytest.approx(np.mean(terms), abs=1e-6)
    assert rotation_loss(torch.zeros(12, 4), answers).item() == pytest.approx(math.log(4))
    mixed = rotation_loss(logits.bfloat16(), answers)
    assert mixed.dtype == torch.float32


def test_the_embedding_is_what_the_head_is_given() -> None:
    model = rotation().eval()
    x = torch.rand(3, 1, 8, 8)
    encoding = model.encode(x)
    torch.testing.assert_close(encoding.embedding, model.encoder(x))
    assert model.head(encoding.embedding).shape == (3, 4)
    assert encoding.latent is None


def test_a_step_turns_what_the_views_made_of_pixels_from_0_to_1() -> None:
    model = rotation(views=STILL)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    image = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    image[:, 0] = 255  # the upper row is white
    model.training_step(image, 0)
    upper, left, lower, right = seen[0].view(4, 2, 8, 8)[:, 0]
    assert upper[0].eq(1).all()
    assert left[:, 0].eq(1).all()
    assert lower[-1].eq(1).all()
    assert right[:, -1].eq(1).all()
    assert seen[0].sum() == 8 * 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_dim": 0}, "hidden_dim: got 0, expected above 0"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0, expected above 0"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
        ({"views": ViewConfig(rotation_degrees=45.0)}, "rotation_degrees: got 45.0, expected less than 45"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RotationConfig(**config)


def test_images_that_are_not_square_are_refused_before_training(tmp_path: Path) -> None:
    options = Options(run=tmp_path / "run", image_size="8x12")
    with pytest.raises(ValueError, match="image_size: got 8x12, expected a square such as 8 for rotation"):
        run_training("rotation", SMALL, options)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "rotation")


GOLDEN_LOSSES = (1.22357, 0.97618, 0.91112)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the views, the network or the loop: say so in the commit."""
    losses = [row["loss"] for row in open_run(run)[1].history]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_training_learns_to_tell_the_turn(run: Path) -> None:
    _, trained = open_run(run)
    assert trained.history[-1]["rotation_accuracy"] > 0.4
    assert trained.test["test_rotation_accuracy"] > 0.35  # chance: one in four


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
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


def test_every_option_changes_the_result(tmp_path: Path) -> None:
    def loss(name: str, **changed: Any) -> float:
        folder = train(tmp_path / name, config=replace(SMALL, **changed), epochs=1)
        return open_run(folder)[1].history[0]["loss"]

    losses = [
        loss("as it is"),
        loss("hidden_dim", hidden_dim=8),
        loss("learning_rate", learning_rate=1e-3),
        loss("weight_decay", weight_decay=1.0),
        loss("views", views=STILL),
        loss("width", width=3),
    ]
    assert len({round(value, 6) for value in losses}) == len(losses)


def test_it_is_exported_with_parity_and_without_a_decoder(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path, report="none", promise=Promise(detectors=("mahalanobis",)))
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "scorer"}
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["embedding", "patches"]
    assert {figure.name for figure in manifest.evaluations} >= {"rotation_accuracy"}
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)["embedding"]
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255).embedding  # type: ignore[operator]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
