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
from training.methods.relative_position import (
    DIRECTIONS,
    Cut,
    RelativePosition,
    RelativePositionConfig,
    dropped,
    nine_patches,
    position_loss,
    projected,
    told,
)
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = RelativePositionConfig(width=8, feature_dim=16, hidden_dim=32, learning_rate=1e-2, views=STILL)


def train(folder: Path, *, config: RelativePositionConfig = SMALL, resume: bool = False, **loop: Any) -> Path:
    options = Options(
        run=folder, image_size=20, resume=resume, loop=LoopConfig(**{"epochs": 3, "batch_rows": 64} | loop)
    )
    return run_training("relative_position", config, options)


def model_of(size: int = 32, channels: int = 3, **config: Any) -> RelativePosition:
    torch.manual_seed(0)
    return RelativePosition(replace(SMALL, **config), LoopConfig(), ImageShape(size, channels))


def coordinates(num: int, height: int, width: int) -> torch.Tensor:
    """Images whose pixels say which row, line and column they are: [B, 3, H, W]."""
    return torch.stack(torch.meshgrid(*map(torch.arange, (num, height, width)), indexing="ij"), dim=1).float()


@pytest.mark.parametrize("size", [(32, 32), (30, 41)])
@pytest.mark.parametrize("cut", [Cut(8, 2, 1), Cut(5, 0, 0), Cut(6, 3, 2)])
def test_patches_lie_where_their_numbers_say(cut: Cut, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    patches = nine_patches(coordinates(200, *size), cut)
    assert patches.shape == (200, 9, 3, cut.size, cut.size)
    assert (patches[:, :, 0].flatten(1) == torch.arange(200.0)[:, None]).all()  # of their own row
    corners = patches[:, :, 1:, 0, 0]
    offsets = torch.arange(float(cut.size))
    assert (patches[:, :, 1] == corners[:, :, 0, None, None] + offsets[:, None]).all()
    assert (patches[:, :, 2] == corners[:, :, 1, None, None] + offsets).all()
    steps = corners[:, 1:] - corners[:, :1]
    off = steps - torch.tensor(DIRECTIONS) * (cut.size + cut.gap)
    assert off.unique().tolist() == list(range(-cut.shift, cut.shift + 1))  # every shift, and no other
    for axis, side in enumerate(size):  # the grid lies everywhere where it fits
        assert len(corners[:, 0, axis].unique()) == side - cut.side + 1
        assert corners[..., axis].max() <= side - cut.size


def test_a_dropped_channel_tells_nothing() -> None:
    torch.manual_seed(0)
    patches = torch.rand(40, 9, 3, 8, 8)
    found = dropped(patches)
    kept = (found == patches).flatten(3).all(dim=3)
    assert (kept.sum(dim=2) == 1).all()
    assert kept.flatten(0, 1).float().mean(dim=0).min() > 0.25  # each of them as often
    noise = found[~kept] - 0.5
    assert noise.std().item() == pytest.approx(0.01 * patches.std().item(), rel=0.1)
    assert abs(noise.mean().item()) < 1e-4


def test_ranks_cut_and_drop_what_one_process_would(as_rank: Any) -> None:
    images = torch.rand(8, 3, 32, 32)

    def cut_and_dropped(rows: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return dropped(nine_patches(rows, Cut(8, 2, 1)))

    expected, parts = cut_and_dropped(images), []
    for rank in range(2):
        as_rank(rank, 2)
        parts.append(cut_and_dropped(images.chunk(2)[rank]))
    assert torch.equal(torch.cat(parts), expected)


def test_projected_colours_have_nothing_of_green_against_magenta() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 4, 4)
    a = np.array([-1.0, 2.0, -1.0])
    matrix = np.eye(3) - np.outer(a, a) / (a @ a)  # section 3.1
    expected = np.einsum("ij,bjhw->bihw", matrix, image.numpy())
    np.testing.assert_allclose(projected(image), expected, atol=1e-6)
    grey = torch.full((1, 3, 2, 2), 0.3)
    torch.testing.assert_close(projected(grey), grey)


def test_the_loss_asks_each_pair_for_its_own_direction() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 8)
    terms = [math.log(float(logits[b, y].exp().sum())) - float(logits[b, y, y]) for b in range(3) for y in range(8)]
    assert position_loss(logits).item() == pytest.approx(np.mean(terms), abs=1e-5)
    assert position_loss(torch.zeros(3, 8, 8)).item() == pytest.approx(math.log(8))
    assert told(torch.eye(8)[None]).item() == 1
    assert told(torch.eye(8)[None].roll(1, dims=2)).item() == 0


def test_a_patch_is_encoded_as_it_is_within_an_image() -> None:
    """The encoder's map of an image has at each place what it makes of the patch there alone."""
    model = model_of(colours="keep").eval()
    image = torch.rand(2, 3, 32, 32)
    features = model.encoder(image)
    stride = (32 - 8) // (features.shape[2] - 1)
    alone = model.encoder(image[:, :, 2 * stride : 2 * stride + 8, stride : stride + 8])
    torch.testing.assert_close(features[:, :, 2, 1], alone[:, :, 0, 0], atol=1e-5, rtol=1e-5)
    quarter = features[:, :, :4, :4].mean(dim=(2, 3))
    torch.testing.assert_close(model.encode(image).embedding[:, 0::4], quarter, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("colours", ["drop", "project", "keep"])
def test_colours_are_projected_where_an_image_is_encoded_and_dropped_in_training_alone(colours: Any) -> None:
    model = model_of(colours=colours)
    image = torch.rand(2, 3, 32, 32)
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.encode(image)
    torch.testing.assert_close(seen[0], projected(image) if colours == "project" else image)
    model.logits(image)
    noisy = (seen[1].flatten(2).std(dim=2) < 0.05).float().sum(dim=1)
    assert (noisy == (2 if colours == "drop" else 0)).all()


def test_grey_images_have_no_colours_to_drop() -> None:
    assert model_of(channels=1).colours == "keep"
    assert model_of(channels=3).colours == "drop"
    with pytest.raises(ValueError, match="colours: got project for images of 1 channel, expected keep"):
        model_of(channels=1, colours="project")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": 3}, "patch_size: got 3, expected 4 or more"),
        ({"gap": -1}, "gap: got -1, expected 0 or greater"),
        ({"shift": -1}, "shift: got -1, expected 0 or greater"),
        ({"feature_dim": 0}, "feature_dim: got 0, expected above 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelativePositionConfig(**config)


def test_images_that_are_too_small_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"patch_size: got 2 pixels with gaps of 0 and shifts of 0 on images of 8 x 8"):
        run_training("relative_position", SMALL, Options(run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="where nine take 34 a side; expected them to fit"):
        model_of(gap=4)


@pytest.mark.parametrize("size", [16, 20, 28, 32, 64, 96])
def test_the_defaults_fit_images_of_usual_sizes(size: int) -> None:
    model = model_of(size).eval()
    assert model.encode(torch.rand(1, 3, size, size)).embedding.shape == (1, 4 * SMALL.feature_dim)
    assert model.logits(torch.rand(1, 3, size, size)).shape == (1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits of 20 pixels."""
    return train(tmp_path_factory.mktemp("runs") / "relative_position")


GOLDEN_LOSSES = (1.71738, 1.32495, 1.25108)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the views, the network or the loop: say so in the commit."""
    losses = [row["loss"] for row in open_run(run)[1].history]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_training_learns_to_tell_directions(run: Path) -> None:
    trained = open_run(run)[1]
    assert trained.history[-1]["position_accuracy"] > 0.25
    assert trained.test["test_position_accuracy"] > 0.25  # chance: one in eight


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
        loss("patch_size", patch_size=4),
        loss("gap", gap=0),
        loss("shift", shift=1),
        loss("feature_dim", feature_dim=12),
        loss("hidden_dim", hidden_dim=16),
        loss("learning_rate", learning_rate=1e-3),
        loss("views", views=ViewConfig()),
        loss("width", width=4),
    ]
    assert len({round(value, 6) for value in losses}) == len(losses)


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
