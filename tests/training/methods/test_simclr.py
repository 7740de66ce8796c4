from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss import NTXentLoss
from numpy.typing import NDArray
from torch import nn

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from latentserve import bundle
from training.__main__ import Options, run_training
from training.augmentations import ViewConfig
from training.data import ImageShape
from training.methods.simclr import SimClr, SimClrConfig, make_optimizer, nt_xent
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = SimClrConfig(width=4, hidden_dim=16, projection_dim=8)


def train(folder: Path, *, config: SimClrConfig = SMALL, resume: bool = False, **loop: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(**{"epochs": 3, "batch_rows": 256} | loop))
    return run_training("simclr", config, options)


def brute_force(first: NDArray[Any], second: NDArray[Any], temperature: float) -> float:
    """Equation 1, term by term."""
    z = [row / math.sqrt(float(row @ row)) for row in np.concatenate([first, second]).astype(np.float64)]
    num = len(first)
    total = 0.0
    for i in range(2 * num):
        similarity = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * num)]
        total -= math.log(similarity[(i + num) % (2 * num)] / (sum(similarity) - similarity[i]))
    return total / (2 * num)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("rows", "dim"), [(1, 3), (2, 2), (7, 16), (32, 5)])
def test_the_loss_is_equation_1_and_that_of_lightly(rows: int, dim: int, temperature: float) -> None:
    torch.manual_seed(rows + dim)
    first, second = torch.randn(rows, dim) * 3, torch.randn(rows, dim)
    got = nt_xent(first, second, temperature).item()
    assert got == pytest.approx(brute_force(first.numpy(), second.numpy(), temperature), abs=1e-5)
    assert got == pytest.approx(NTXentLoss(temperature)(first, second).item(), abs=1e-5)


def test_the_gradient_is_that_of_lightly() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 9, 6).requires_grad_().unbind()
    ours = torch.autograd.grad(nt_xent(first, second, 0.2), (first, second))
    theirs = torch.autograd.grad(NTXentLoss(0.2)(first, second), (first, second))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_closed_forms_of_the_loss() -> None:
    same = torch.ones(5, 4)
    assert nt_xent(same, same, 0.3).item() == pytest.approx(math.log(9))  # nobody can be told apart: 2 B - 1 choices
    apart = torch.eye(6)
    expected = math.log(1 + 10 * math.exp(-1 / 0.3))  # partners at similarity 1, the other ten views at 0
    assert nt_xent(apart, apart, 0.3).item() == pytest.approx(expected)
    assert nt_xent(100 * apart, 0.01 * apart, 0.3).item() == pytest.approx(expected)  # cosine: lengths do not count


def test_similarity_is_float32_whatever_the_precision_of_the_network() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 16, 8).bfloat16().unbind()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nt_xent(first, second, 0.05)
    assert mixed.dtype == torch.float32
    assert mixed.item() == nt_xent(first.float(), second.float(), 0.05).item()


def simclr(**config: Any) -> SimClr:
    torch.manual_seed(0)
    return SimClr(replace(SMALL, **config), LoopConfig(), ImageShape(8, 1))


@pytest.mark.parametrize("size", [(8, 40), (40, 8), (64, 96)])
@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_images_that_are_not_square_are_trained_on(backbone: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = SimClr(replace(SMALL, backbone=backbone), LoopConfig(), ImageShape(size[0], 1, width=size[1]))
    x = torch.randint(0, 256, (4, *size, 1), dtype=torch.uint8)
    first, second = model.projections(x)
    assert first.shape == second.shape == (4, SMALL.projection_dim)
    assert model.encode(torch.rand(2, 1, *size)).embedding.isfinite().all()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_only_weights_decay(optimizer: Any) -> None:
    """With zero gradients what moves is what decays."""
    model = simclr(weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = make_optimizer(model, replace(model.config, optimizer=optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    norms = {
        f"{place}.{kind}"
        for place, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    assert norms
    assert moved == before.keys() - norms


def test_lars_scales_the_step_of_weights_to_their_length_and_leaves_vectors_alone() -> None:
    net = nn.Linear(4, 4)
    nn.init.constant_(net.weight, 2.0)
    nn.init.zeros_(net.bias)
    made = make_optimizer(net, SimClrConfig(optimizer="lars", learning_rate=1.0, weight_decay=0.0))
    net.weight.grad, net.bias.grad = torch.full((4, 4), 50.0), torch.full((4,), 50.0)
    made.step()
    # |w| = 8, |g| = 200: the rate is 0.001 |w| / |g|
    torch.testing.assert_close(net.weight.detach(), torch.full((4, 4), 2 - 50 * 0.001 * 8 / 200))
    torch.testing.assert_close(net.bias.detach(), torch.full((4,), -50.0))


def test_each_optimizer_is_the_one_that_was_named() -> None:
    kinds = {
        name: type(make_optimizer(simclr(), SimClrConfig(optimizer=name))).__name__ for name in ("adamw", "sgd", "lars")
    }
    assert kinds == {"adamw": "AdamW", "sgd": "SGD", "lars": "Lars"}
    (group, _) = make_optimizer(simclr(), SimClrConfig(optimizer="sgd")).param_groups
    assert (group["nesterov"], group["momentum"]) == (True, 0.9)


def test_the_embedding_is_h_and_not_z() -> None:
    model = simclr().eval()
    x = torch.rand(3, 1, 8, 8)
    encoding = model.encode(x)
    assert encoding.latent is None
    torch.testing.assert_close(encoding.embedding, model.encoder(x))
    assert model.projection_head(encoding.embedding).shape == (3, 8)


def test_a_step_takes_pixels_as_the_service_does() -> None:
    """uint8 channels last, divided by 255 before anything else: views of white are white, not 255."""
    model = simclr(views=ViewConfig(crop_area_min=1, rotation_degrees=0, shear=0, elastic=0))
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.projections(torch.full((4, 8, 8, 1), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0], torch.ones(8, 1, 8, 8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0, expected above 0"),
        ({"width": 0}, "width: got 0, expected above 0"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimClrConfig(**config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "simclr")


GOLDEN_LOSSES = (6.99863, 6.73983, 6.40712)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the views, the network or the loop: say so in the commit."""
    losses = [row["loss"] for row in open_run(run)[1].history]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_training_learns_to_find_the_partner(run: Path) -> None:
    _, trained = open_run(run)
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.test["test_partner_found"] > 2 / 300  # chance: one in 300; three steps an epoch, three epochs


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


def test_the_seed_and_the_optimizer_and_the_precision_change_the_result(run: Path, tmp_path: Path) -> None:
    def loss(folder: Path) -> float:
        return open_run(folder)[1].history[0]["loss"]

    lars, sgd = (replace(SMALL, optimizer=name, learning_rate=1.0) for name in ("lars", "sgd"))  # type: ignore[arg-type]
    losses = [
        loss(run),
        loss(train(tmp_path / "seed", seed=1, epochs=1)),
        loss(train(tmp_path / "lars", config=lars, epochs=1)),
        loss(train(tmp_path / "sgd", config=sgd, epochs=1)),
        loss(train(tmp_path / "bf16", precision="bf16-mixed", epochs=1)),
    ]
    assert len({round(value, 6) for value in losses}) == 5
    assert losses[-1] == pytest.approx(loss(train(tmp_path / "same", epochs=1)), abs=0.05)  # less exact, not another


def test_it_is_exported_with_parity_and_without_a_decoder(run: Path, tmp_path: Path) -> None:
    promise = Promise(detectors=("mahalanobis", "input_knn", "patch_bank"))
    folder = export_run(run, tmp_path, promise=promise)
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "scorer"}
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["embedding", "patches"]
    assert [spec.name for spec in manifest.graphs["scorer"].inputs] == ["embedding", "input", "patches"]
    assert {figure.name for figure in manifest.evaluations} >= {"linear_probe_accuracy", "partner_found"}
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)["embedding"]
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255).embedding  # type: ignore[operator]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
