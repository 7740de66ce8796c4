from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from latentserve import bundle
from training.__main__ import Options, run_training
from training.augmentations import STILL, ViewConfig
from training.colours import lightness
from training.data import DataError, ImageShape
from training.methods.colorization import Colorization, ColorizationConfig, colour_loss
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, RunError, load_model, open_run
from training.schedule import LoopConfig

SMALL = ColorizationConfig(width=4, bin_size=20.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, encode: Any) -> Path:
    """Reddish lights on a dark ground, and bluish darks on a light one."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(120):
        grey = rng.integers(20, 80, (12, 12, 1)) + np.array([0, 0, 0])
        top, left = rng.integers(0, 7, 2)
        grey[top : top + 5, left : left + 5] = [220, 90, 60]
        image = grey if i % 2 else 255 - grey
        (folder / f"{i:03}.png").write_bytes(encode(image.astype(np.uint8)))
    return folder


def train(folder: Path, data: Path, *, config: ColorizationConfig = SMALL, resume: bool = False, **loop: Any) -> Path:
    options = Options(
        data=f"folder:{data}",
        image_size=12,
        run=folder,
        resume=resume,
        loop=LoopConfig(**{"epochs": 3, "batch_rows": 16} | loop),
    )
    return run_training("colorization", config, options)


def model_of(**config: Any) -> Colorization:
    torch.manual_seed(0)
    return Colorization(replace(SMALL, **config), LoopConfig(), ImageShape(12, 3))


def test_the_loss_is_equation_2() -> None:
    torch.manual_seed(0)
    logits, weights = torch.randn(6, 9) * 2, torch.rand(9)
    nearest = torch.stack([torch.randperm(9)[:5] for _ in range(6)])
    shares = torch.rand(6, 5).sort(descending=True).values
    shares /= shares.sum(dim=1, keepdim=True)
    expected = 0.0
    for m in range(6):
        z = np.zeros(9)
        z[nearest[m].numpy()] = shares[m].numpy()
        log_p = logits[m].numpy() - np.log(np.exp(logits[m].numpy()).sum())
        expected -= float(weights[z.argmax()]) * float((z * log_p).sum()) / 6
    assert colour_loss(logits, nearest, shares, weights).item() == pytest.approx(expected, abs=1e-5)


def test_the_encoder_sees_the_lightness_of_rgb_and_no_colour() -> None:
    model = model_of().eval()
    torch.manual_seed(0)
    images = torch.rand(3, 3, 12, 12)
    encoding = model.encode(images)
    torch.testing.assert_close(encoding.embedding, model.encoder(lightness(images)))
    y = 0.212671 * 0.5**1.0  # any red and any green of one luminance look alike
    red, green = torch.zeros(2, 1, 3, 12, 12)
    red[:, 0], green[:, 1] = as_srgb(y / 0.212671), as_srgb(y / 0.715160)
    torch.testing.assert_close(model.encode(red).embedding, model.encode(green).embedding, atol=1e-4, rtol=1e-4)


def as_srgb(linear: float) -> float:
    return float(1.055 * linear ** (1 / 2.4) - 0.055)


def test_rare_colours_count_for_more() -> None:
    model = model_of()
    rows = np.full((50, 12, 12, 3), 100, np.uint8)
    rows[0] = [250, 20, 20]
    model.survey(rows)
    bins = model.bins.middle_Q2
    grey, red = (
        int(((bins - torch.tensor(colour)).square().sum(dim=1)).argmin()) for colour in ([0.0, 0.0], [76.0, 56.0])
    )
    assert model.weights_Q[red] > 20 * model.weights_Q[grey]
    flat = model_of(uniform=1.0)
    flat.survey(rows)
    torch.testing.assert_close(flat.weights_Q, torch.ones(len(bins)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bin_size": 4.0}, "bin_size: got 4.0, expected 5 to 50"),
        ({"uniform": 0.0}, "uniform: got 0.0, expected above 0 and at most 1"),
        ({"width": 0}, "width: got 0, expected above 0"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
        ({"views": ViewConfig(jitter=0.5)}, "jitter, grey_probability: got 0.5, 0.0, expected 0, 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColorizationConfig(**config)


def test_grey_images_are_refused_before_training(tmp_path: Path, encode: Any) -> None:
    with pytest.raises(RunError, match="digits is grey, colorization takes RGB images"):
        run_training("colorization", SMALL, Options(run=tmp_path / "run"))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        image: NDArray[np.uint8] = np.repeat(rng.integers(0, 256, (12, 12, 1), dtype=np.uint8), 3, axis=2)
        (tmp_path / "photos" / f"{i}.png").write_bytes(encode(image))
    with pytest.raises(DataError, match="got 24 RGB images that are all grey, expected colours to learn from"):
        train(tmp_path / "run", tmp_path / "photos")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Three epochs on photos."""
    return train(tmp_path_factory.mktemp("runs") / "colorization", photos)


GOLDEN_LOSSES = (6.40351, 6.02356, 5.86743)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the views, the network or the loop: say so in the commit."""
    losses = [row["loss"] for row in open_run(run)[1].history]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_training_learns_colours(run: Path) -> None:
    trained = open_run(run)[1]
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] - 0.3
    assert trained.test.keys() == {"test_loss", "test_bin_accuracy"}


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., None] = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", photos)
    monkeypatch.undo()
    train(tmp_path / "run", photos, resume=True)
    whole, resumed = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["weights_Q"], torch.ones_like(whole["weights_Q"]))


def test_every_option_changes_the_result(tmp_path: Path, photos: Path) -> None:
    def loss(name: str, **changed: Any) -> float:
        folder = train(tmp_path / name, photos, config=replace(SMALL, **changed), epochs=1)
        return open_run(folder)[1].history[0]["loss"]

    losses = [
        loss("as it is"),
        loss("bin_size", bin_size=30.0),
        loss("uniform", uniform=0.2),
        loss("learning_rate", learning_rate=1e-3),
        loss("weight_decay", weight_decay=1.0),
        loss("views", views=STILL),
        loss("width", width=3),
    ]
    assert len({round(value, 6) for value in losses}) == len(losses)


def test_it_is_exported_with_parity_and_takes_rgb(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path, report="none", promise=Promise(detectors=("mahalanobis",)))
    manifest = bundle.load(folder)
    assert manifest.graphs["encoder"].inputs[0].shape == (12, 12, 3)
    model, rows = load_model(run, open_run(run)[0]), np.asarray(open_run(run)[0].load_data().test.values)
    rows = np.concatenate([rows, np.zeros_like(rows[:1]), np.full_like(rows[:1], 255)])  # both ends of the curve
    got = GraphRunner(folder, manifest.graphs.values()).run(rows)["embedding"]
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(rows).permute(0, 3, 1, 2) / 255).embedding  # type: ignore[operator]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
