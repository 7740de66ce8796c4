from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn import functional as F

from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.cpc import Cpc, CpcConfig, info_nce, step_losses
from training.networks.patches import Jitter, PatchEncoder, jittered_patches
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, open_run
from training.schedule import LoopConfig

STILL = Jitter(0, 0, 0)
SMALL = CpcConfig(width=8, feature_dim=16, context_dim=8, learning_rate=1e-2)


def brute_force(
    predictions: Tensor, targets: Tensor, positives: Tensor, temperature: float, candidates: Tensor | None
) -> Tensor:
    losses = []
    for n, prediction in enumerate(predictions):
        score = [math.exp(float(prediction @ target) / temperature) for target in targets]
        right = int(positives[n])
        allowed = [m for m in range(len(targets)) if candidates is None or candidates[n, m] or m == right]
        losses.append(-math.log(score[right] / sum(score[m] for m in allowed)))
    return torch.tensor(losses)


@pytest.mark.parametrize(("num_predictions", "num_targets"), [(1, 1), (1, 5), (4, 4), (7, 3), (3, 9)])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("restricted", [False, True])
def test_info_nce_is_the_formula(num_predictions: int, num_targets: int, temperature: float, restricted: bool) -> None:
    torch.manual_seed(num_predictions + num_targets)
    predictions, targets = torch.randn(num_predictions, 6), torch.randn(num_targets, 6)
    positives = torch.randint(num_targets, (num_predictions,))
    candidates = torch.rand(num_predictions, num_targets) < 0.5 if restricted else None
    got = info_nce(predictions, targets, positives, temperature, candidates)
    expected = brute_force(predictions, targets, positives, temperature, candidates)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_rows", [2, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_without_self_among_the_candidates_is_the_nt_xent_of_lightly(
    num_rows: int, temperature: float
) -> None:
    torch.manual_seed(0)
    views = torch.randn(2 * num_rows, 8)
    unit = F.normalize(views, dim=1)
    positives = torch.arange(2 * num_rows).roll(num_rows)
    got = info_nce(unit, unit, positives, temperature, ~torch.eye(2 * num_rows, dtype=torch.bool))
    torch.testing.assert_close(got.mean(), NTXentLoss(temperature)(views[:num_rows], views[num_rows:]))


def test_leading_axes_are_problems_of_their_own() -> None:
    predictions, targets = torch.randn(3, 2, 4, 6), torch.randn(3, 2, 5, 6)
    positives, candidates = torch.tensor([0, 4, 2, 2]), torch.rand(3, 2, 4, 5) < 0.7
    got = info_nce(predictions, targets, positives, 0.3, candidates)
    assert got.shape == (3, 2, 4)
    alone = info_nce(predictions[1, 0], targets[1, 0], positives, 0.3, candidates[1, 0])
    torch.testing.assert_close(got[1, 0], alone)


def test_chance_is_the_log_of_the_number_of_candidates() -> None:
    same_sequence = torch.arange(6)[:, None] // 3 == torch.arange(6) // 3
    zeros, positives = torch.zeros(6, 2), torch.arange(6)
    assert info_nce(zeros, zeros, positives).tolist() == pytest.approx([math.log(6)] * 6)
    assert info_nce(zeros, zeros, positives, 1.0, same_sequence).tolist() == pytest.approx([math.log(3)] * 6)


def test_scores_that_overflow_exp_give_a_finite_loss_and_gradient() -> None:
    predictions = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = info_nce(predictions, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]))
    assert loss.tolist() == [0.0, 2e4]
    torch.autograd.backward(loss.sum())
    assert predictions.grad is not None
    assert predictions.grad.isfinite().all()
    assert predictions.grad[1].item() == -2.0


def grid_of_patches(x_BCHW: Tensor, patch_size: int, stride: int) -> Tensor:
    patches = x_BCHW.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return patches.permute(0, 2, 3, 1, 4, 5)


def test_patches_without_jitter_are_the_pixels_themselves() -> None:
    x = torch.rand(2, 3, 28, 28)
    torch.testing.assert_close(jittered_patches(x, 12, 4, STILL), grid_of_patches(x, 12, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("jitter", [Jitter(20, 0, 0), Jitter(0, 0.2, 0), Jitter(0, 0, 1.5)])
def test_every_patch_is_jittered_by_itself(jitter: Jitter) -> None:
    x = torch.rand(1, 1, 4, 4).repeat(2, 1, 7, 7)  # all patches of this are equal
    (still, *others) = jittered_patches(x, 12, 4, STILL).flatten(0, 2)
    assert all(torch.allclose(still, other, atol=1e-4) for other in others)
    moved = jittered_patches(x, 12, 4, jitter).flatten(0, 2)
    assert len(moved.unique(dim=0)) == len(moved)
    assert (moved - still).abs().mean() > 0.02


def test_a_shift_is_at_most_as_far_as_the_config_says() -> None:
    ramp = torch.arange(28.0).expand(64, 1, 28, 28)
    moved = jittered_patches(ramp, 12, 4, Jitter(0, 0, 1.5))[:, :, 1:-1] - grid_of_patches(ramp, 12, 4)[:, :, 1:-1]
    assert 1.3 < moved.abs().max() <= 1.5 + 1e-3


@pytest.mark.parametrize(
    ("image_size", "patch_size", "stride"), [(8, 3, 1), (8, 4, 1), (8, 4, 2), (28, 12, 4), (28, 10, 2), (29, 11, 4)]
)
def test_the_encoder_sees_each_patch_alone(image_size: int, patch_size: int, stride: int) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(1, patch_size, stride, 4, 8)
    x = torch.rand(2, 1, image_size, image_size)
    patches = grid_of_patches(x, patch_size, stride)
    alone = torch.stack([encoder(patch[None])[0, :, 0, 0] for patch in patches.flatten(0, 2)])
    z = encoder(x)
    assert z.shape[2:] == patches.shape[1:3]
    torch.testing.assert_close(z.movedim(1, 3).flatten(0, 2), alone, rtol=1e-4, atol=1e-5)


def test_the_encoder_sees_the_whole_patch() -> None:
    encoder = PatchEncoder(1, 12, 4, 4, 8)
    x = torch.rand(1, 1, 12, 12, requires_grad=True)
    torch.autograd.backward(encoder(x).square().sum())
    assert x.grad is not None
    assert (x.grad != 0).all()


def cpc(image_size: int = 28, **config: Any) -> Cpc:
    torch.manual_seed(0)
    return Cpc(
        CpcConfig(**{"width": 8, "feature_dim": 16, "context_dim": 8, **config}),
        LoopConfig(),
        ImageShape(image_size, 1),
    )


def test_nothing_normalises_over_rows_or_places() -> None:
    norms = {type(part) for part in cpc().modules() if "Norm" in type(part).__name__}
    assert [norm.__name__ for norm in norms] == ["ChannelNorm"]
    x = torch.rand(4, 1, 28, 28)
    mates = torch.cat([x[:1], torch.rand(3, 1, 28, 28) * 100])
    for model in (cpc().train(), cpc().eval()):
        assert torch.equal(model.encode(x).embedding[0], model.encode(mates).embedding[0])


@pytest.mark.parametrize("turns", range(4))
def test_a_context_knows_nothing_of_the_rows_after_it(turns: int) -> None:
    model = cpc()
    context = model.contexts[turns]
    z = torch.randn(1, 16, 5, 5)
    before = context(z.rot90(turns, (2, 3)))
    for row in range(5):
        for column in range(5):
            changed = z.clone()
            changed[:, :, row, column] += 1
            seen = torch.zeros(1, 1, 5, 5)
            seen[..., row, column] = 1
            (place,) = seen.rot90(turns, (2, 3)).squeeze().nonzero().tolist()
            difference = (context(changed.rot90(turns, (2, 3))) - before).abs().sum(dim=(0, 1))
            assert (difference[: place[0]] == 0).all()
            assert (difference[place[0]] != 0).any()
            assert (difference[place[0] + 1 :] != 0).any() or place[0] == 4


@pytest.mark.parametrize("turns", range(4))
def test_predictions_do_not_move_with_pixels_that_come_later(turns: int) -> None:
    model = cpc(jitter=STILL)
    x = torch.rand(1, 1, 28, 28)
    later = x.rot90(turns, (2, 3)).clone()
    later[:, :, 16:] = torch.rand(1, 1, 12, 28)  # rows 0 and 1 of the grid end at pixel 16
    one, other = (model.encoder(image).rot90(turns, (2, 3)) for image in (x, later.rot90(-turns, (2, 3))))
    one, other = model.contexts[turns](one), model.contexts[turns](other)
    assert torch.equal(one[:, :, :2], other[:, :, :2])
    assert not torch.equal(one[:, :, 2], other[:, :, 2])


def test_step_losses_hold_a_prediction_against_its_image_and_against_its_place() -> None:
    torch.manual_seed(0)
    rows, side, step, temperature = 3, 4, 2, 0.5
    predictions, targets = torch.randn(rows, side, side, 6), torch.randn(rows, side, side, 6)
    same_image, other_images = [], []
    for b in range(rows):
        for i in range(side - step):
            for j in range(side):
                scores = torch.einsum("d,brcd->brc", predictions[b, i, j], targets).div(temperature).exp()
                right = scores[b, i + step, j]
                same_image.append(-(right / scores[b].sum()).log())
                other_images.append(-(right / scores[:, i + step, j].sum()).log())
    got = step_losses(predictions, targets, step, temperature)
    torch.testing.assert_close(got, (torch.stack(same_image).mean(), torch.stack(other_images).mean()))


def test_the_loss_is_about_every_direction_and_step() -> None:
    model = cpc(first_step=2, last_step=3)
    for loss in model.losses(model.patch_features(torch.rand(4, 1, 28, 28))):
        model.zero_grad()
        torch.autograd.backward(loss, retain_graph=True)
        for head in model.prediction_heads:
            assert isinstance(head, nn.Conv2d)
            assert head.weight.grad is not None
            assert (head.weight.grad.view(2, -1).abs().sum(dim=1) > 0).all()
    assert len(cpc(num_directions=2).contexts) == 2
    assert cpc(first_step=1, last_step=9).steps == range(1, 5)
    assert cpc(first_step=1, last_step=2).steps == range(1, 3)


def test_temperature_divides_the_scores() -> None:
    z = torch.randn(4, 16, 5, 5)
    sharp, flat = (cpc(temperature=temperature).losses(z) for temperature in (0.1, 1e4))
    assert [loss.item() for loss in flat] == pytest.approx([math.log(25), math.log(4)], rel=1e-3)
    assert all(one > other for one, other in zip(sharp, flat, strict=True))


@pytest.mark.parametrize(
    ("image_size", "grid"), [(8, (3, 1, 6)), (16, (6, 2, 6)), (28, (12, 4, 5)), (32, (12, 4, 6)), (64, (24, 8, 6))]
)
def test_patches_follow_the_image_unless_they_are_named(image_size: int, grid: tuple[int, int, int]) -> None:
    assert CpcConfig().grid(image_size) == grid
    assert CpcConfig(patch_size=4, patch_stride=2, first_step=1).grid(8) == (4, 2, 3)
    assert cpc(image_size).encode(torch.rand(2, 1, image_size, image_size)).embedding.shape == (2, 64)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size: got 28x32, expected a square such as 28 for cpc"):
        Cpc(CpcConfig(), LoopConfig(), ImageShape(28, 1, width=32))


@pytest.mark.parametrize(
    ("config", "image_size", "message"),
    [
        ({"patch_size": 12}, 8, "patch_size: got 12 with stride 1 on images of 8 pixels, 0 patches a side; expected"),
        ({"patch_size": 20}, 28, r"3 patches a side; expected more than first_step \(3\): take smaller patches"),
        ({"patch_stride": 3}, 28, "patch_stride: got 3, expected a power of two up to patch_size"),
        (
            {"patch_stride": 8, "patch_size": 4},
            28,
            r"patch_stride: got 8, expected a power of two up to patch_size \(4",
        ),
    ],
)
def test_patches_that_do_not_fit_are_rejected(config: dict[str, Any], image_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CpcConfig(first_step=3, **config).grid(image_size)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 0}, "width: got 0, expected above 0"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected above 0"),
        ({"num_directions": 5}, "num_directions: got 5, expected 1 to 4"),
        ({"last_step": 1}, r"last_step: got 1, expected first_step \(2\) or more"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CpcConfig(**config)
    with pytest.raises(ValueError, match="stretch: got -1, expected 0 or greater"):
        Jitter(stretch=-1)


def train(folder: Path, *, epochs: int = 2, seed: int = 0, resume: bool = False) -> Path:
    loop = LoopConfig(epochs=epochs, batch_rows=128, warmup_steps=0, seed=seed)
    return run_training("cpc", SMALL, Options(run=folder, resume=resume, loop=loop))


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoint.state_dict(folder / CHECKPOINT)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "cpc")


GOLDEN_LOSSES = [4.15669, 4.05516]


def test_the_loss_falls_along_the_golden_curve(run: Path) -> None:
    history = open_run(run)[1].history
    assert [row["loss"] for row in history] == pytest.approx(GOLDEN_LOSSES, rel=1e-3)
    assert [row["loss"] for row in history] == pytest.approx(
        [(row["same_image_nats"] + row["other_images_nats"]) / 2 for row in history], rel=1e-5
    )


def test_resume_ends_with_the_weights_of_a_run_that_did_not_stop(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Diary, "_say", lambda self, trainer, figures: stop() if trainer.current_epoch == 1 else None)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped")
    assert checkpoint.load(tmp_path / "stopped" / CHECKPOINT)["epoch"] == 0
    train(tmp_path / "stopped", resume=True)
    assert same(weights(run), weights(tmp_path / "stopped"))


def test_the_seed_decides_everything(run: Path, tmp_path: Path) -> None:
    assert same(weights(run), weights(train(tmp_path / "again")))
    assert not same(weights(run), weights(train(tmp_path / "other", seed=1)))


def test_an_exported_encoder_gives_what_the_model_gives(run: Path, tmp_path: Path) -> None:
    import numpy as np

    from export.calibration import Promise
    from export.exporter import export_run
    from export.graphs import GraphRunner
    from latentserve import bundle, records
    from latentserve.bundle import Manifest

    folder = export_run(run, tmp_path, promise=Promise(detectors=("mahalanobis",)))
    manifest = records.read(Manifest, folder / bundle.MANIFEST)
    assert list(manifest.graphs) == ["encoder", "scorer"]
    assert [output.name for output in manifest.graphs["encoder"].outputs] == ["embedding", "patches"]
    assert {one.tensor: one.max_abs_error < 1e-4 for one in manifest.parity}["embedding"]
    assert {figure.name for figure in manifest.evaluations} >= {"knn_20_accuracy", "same_image_nats"}
    runner = GraphRunner(folder, manifest.graphs.values())
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    mates = np.concatenate([x[:1], 255 - x[1:]])
    one, other = (runner.run(rows)["embedding"][0] for rows in (x, mates))
    assert np.array_equal(one, other)
