from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neural_network import BernoulliRBM
from torch import Tensor

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from latentserve import bundle
from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.dbn import Dbn, DbnConfig, contrastive_loss, cross_entropy, phase_of
from training.networks.boltzmann import Rbm, drawn
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = DbnConfig(layers=(24, 12), pretraining=0.6)


def dbn(size: int = 8, channels: int = 1, **config: Any) -> Dbn:
    torch.manual_seed(0)
    return Dbn(replace(SMALL, **config), LoopConfig(batch_rows=16), ImageShape(size, channels))


def train(folder: Path, *, resume: bool = False, epochs: int = 4, **config: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(epochs=epochs, batch_rows=256))
    return run_training("dbn", replace(SMALL, **config), options)


def tiny(num_hidden: int = 3, num_visible: int = 4) -> Rbm:
    draw = torch.Generator().manual_seed(1)
    shapes = ((num_hidden, num_visible), (num_hidden,), (num_visible,))
    return Rbm(*(torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes))


def states(num: int) -> Tensor:
    """All there are of so many units."""
    return torch.tensor([*itertools.product((0.0, 1.0), repeat=num)], dtype=torch.float64)


def energies(rbm: Rbm) -> Tensor:
    """E(v, h) of all pairs, written out, [2^V, 2^H]."""
    v, h = states(rbm.weight_HV.shape[1]), states(rbm.weight_HV.shape[0])
    return -(v @ rbm.visible_bias_V)[:, None] - (h @ rbm.hidden_bias_H)[None] - v @ rbm.weight_HV.T @ h.T


def test_the_free_energy_is_that_of_all_hidden_states() -> None:
    rbm = tiny()
    torch.testing.assert_close(rbm.free_energy(states(4)), -(-energies(rbm)).logsumexp(dim=1))


def test_the_conditionals_are_those_of_the_joint_distribution() -> None:
    rbm = tiny()
    joint = (-energies(rbm)).exp()
    torch.testing.assert_close(rbm.hidden(states(4)), joint @ states(3) / joint.sum(dim=1, keepdim=True))
    torch.testing.assert_close(rbm.visible(states(3)), joint.T @ states(4) / joint.sum(dim=0)[:, None])


def test_free_energy_and_conditionals_are_those_of_scikit_learn() -> None:
    rbm, other = tiny(), BernoulliRBM(n_components=3)
    other.components_, other.intercept_hidden_, other.intercept_visible_ = (one.numpy() for one in rbm)
    v = torch.rand(9, 4, dtype=torch.float64)
    np.testing.assert_allclose(rbm.free_energy(v).numpy(), other._free_energy(v.numpy()))
    np.testing.assert_allclose(rbm.hidden(v).numpy(), other.transform(v.numpy()))


def exact_gradient(rbm: Rbm, data: Tensor) -> list[Tensor]:
    """Of -mean log p(v), Z by enumeration."""
    parameters = Rbm(*(one.clone().requires_grad_() for one in rbm))
    log_z = (-parameters.free_energy(states(4))).logsumexp(dim=0)
    return list(torch.autograd.grad((parameters.free_energy(data) + log_z).mean(), parameters))


def contrastive_gradient(rbm: Rbm, data: Tensor, samples: Tensor) -> list[Tensor]:
    parameters = Rbm(*(one.clone().requires_grad_() for one in rbm))
    return list(torch.autograd.grad(contrastive_loss(parameters, data, samples), parameters))


def test_with_samples_of_the_model_the_gradient_is_that_of_the_likelihood() -> None:
    """Every state as often as the model has it: 100,000 samples, rounded."""
    rbm, data = tiny(), states(4)[[1, 6, 6, 11, 15]]
    share = (-rbm.free_energy(states(4))).softmax(dim=0)
    samples = states(4).repeat_interleave((share * 100_000).round().long(), dim=0)
    for got, expected in zip(contrastive_gradient(rbm, data, samples), exact_gradient(rbm, data), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_a_long_chain_ends_in_samples_of_the_model_and_a_short_one_does_not() -> None:
    torch.manual_seed(0)
    rbm = tiny()
    share = (-rbm.free_energy(states(4))).softmax(dim=0)
    codes = 2.0 ** torch.arange(3, -1, -1, dtype=torch.float64)

    def far(num_steps: int) -> float:
        ends = rbm.chain(states(4)[:1].repeat(20_000, 1), num_steps) @ codes
        return float((torch.bincount(ends.long(), minlength=16) / len(ends) - share).abs().sum())

    assert far(50) < 0.03  # noise of 20,000 draws
    assert far(1) > 0.1
    data = states(4)[[1, 6, 6, 11, 15]]
    long = contrastive_gradient(rbm, data, rbm.chain(data.repeat(10_000, 1), 50))
    for got, expected in zip(long, exact_gradient(rbm, data), strict=True):
        torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


def test_units_are_drawn_with_their_probabilities() -> None:
    torch.manual_seed(0)
    got = drawn(torch.tensor([[0.0, 0.3, 1.0]]).repeat(20_000, 1))
    assert got.unique().tolist() == [0, 1]
    assert got.mean(dim=0).tolist() == pytest.approx([0, 0.3, 1], abs=0.02)


@pytest.mark.parametrize(("num_steps", "share"), [(10, 0.6), (5, 0.8), (7, 1.0), (1, 0.5)])
def test_layers_take_turns_and_then_learn_together(num_steps: int, share: float) -> None:
    phases = [phase_of(step, num_steps, 2, share) for step in range(num_steps)]
    assert phases == sorted(phases)
    if num_steps > 1:
        assert abs(phases.count(0) - phases.count(1)) <= 1
        assert phases.count(2) == num_steps - round(share * num_steps)


def test_the_stack_is_unrolled() -> None:
    model = dbn()
    x = torch.rand(3, 1, 8, 8)
    h = x.flatten(1)
    for layer in range(2):
        h = model.rbm(layer).hidden(h)
    encoding = model.encode(x)
    torch.testing.assert_close(encoding.embedding.sigmoid(), h)
    torch.testing.assert_close(encoding.latent, h)
    for layer in (1, 0):
        h = model.rbm(layer).visible(h)
    assert encoding.latent is not None
    torch.testing.assert_close(model.decode(encoding.latent), h.view_as(x))


def test_the_loss_of_the_stack_is_cross_entropy_summed_over_pixels() -> None:
    logits, x = torch.randn(3, 5), torch.rand(3, 5)
    p = logits.sigmoid().numpy()
    expected = -(x.numpy() * np.log(p) + (1 - x.numpy()) * np.log(1 - p)).sum(axis=1).mean()
    assert cross_entropy(logits, x).item() == pytest.approx(expected, rel=1e-5)


def test_a_layer_s_loss_leaves_other_layers_alone() -> None:
    model = dbn()
    loss, _ = model.layer_loss(torch.rand(16, 1, 8, 8), 1)
    loss.backward()  # type: ignore[no-untyped-call]
    moved = {name for name, one in model.named_parameters() if one.grad is not None}
    assert moved == {"encoder.3.weight", "encoder.3.bias", "decoder.0.bias"}


def test_persistent_chains_go_on_and_others_begin_at_the_rows() -> None:
    model, x = dbn(sampling="pcd"), torch.rand(16, 1, 8, 8)
    model.layer_loss(x, 0)
    first = model.get_buffer("chains_0").clone()
    assert first.unique().tolist() == [0, 1]
    assert first.shape == (16, 64)
    model.layer_loss(x, 0)
    assert not torch.equal(model.get_buffer("chains_0"), first)
    assert not [name for name, _ in dbn().named_buffers()]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": ()}, r"layers: got \(\), expected one or more"),
        ({"layers": (8, 0)}, r"layers: got \(8, 0\)"),
        ({"gibbs_steps": 0}, "gibbs_steps: got 0, expected above 0"),
        ({"pretraining": 0.0}, "pretraining: got 0.0, expected above 0, at most 1"),
        ({"pretraining": 1.5}, "pretraining: got 1.5"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DbnConfig(**config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "dbn")


@pytest.fixture(scope="module")
def pcd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with persistent chains."""
    return train(tmp_path_factory.mktemp("runs") / "pcd", sampling="pcd")


GOLDEN_LOSSES = (-4.01239, -1.49404, 14.86562, 29.74505)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method or the loop: say so in the commit."""
    history = open_run(run)[1].history
    assert [row["loss"] for row in history] == pytest.approx(GOLDEN_LOSSES, rel=1e-3, abs=1e-3)
    assert history[0]["layer"] == 1
    assert history[-1]["layer"] == 3


@pytest.mark.parametrize("sampling", ["cd", "pcd"])
@pytest.mark.parametrize("stopped_in", [1, 2])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    sampling: str, stopped_in: int, run: Path, pcd_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a layer, and where the next one's turn comes."""
    original = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == stopped_in:
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", sampling=sampling)
    monkeypatch.undo()
    train(tmp_path / "run", resume=True, sampling=sampling)
    whole_run = pcd_run if sampling == "pcd" else run
    whole, resumed = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (whole_run, tmp_path / "run"))
    assert ("chains_0" in whole) is (sampling == "pcd")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert open_run(whole_run)[1].history == open_run(tmp_path / "run")[1].history


def test_every_option_changes_what_is_learnt(run: Path, pcd_run: Path, tmp_path: Path) -> None:
    def weights(folder: Path) -> float:
        return float(sum(one.double().abs().sum() for one in checkpoint.state_dict(folder / CHECKPOINT).values()))

    changed: dict[str, Any] = {"gibbs_steps": 3, "pretraining": 1.0, "rbm_learning_rate": 0.02, "weight_decay": 0.1}
    changed |= {"learning_rate": 1e-2}
    sums = [
        weights(run),
        weights(pcd_run),
        *(weights(train(tmp_path / name, **{name: to})) for name, to in changed.items()),
    ]
    assert len({round(value, 4) for value in sums}) == len(sums)


def test_without_fine_tuning_the_way_down_is_the_way_up(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", pretraining=1.0)
    weights = checkpoint.state_dict(folder / CHECKPOINT)
    assert torch.equal(weights["encoder.1.weight"], weights["decoder.2.weight"].T)
    assert torch.equal(weights["encoder.3.weight"], weights["decoder.0.weight"].T)


def test_it_is_exported_with_parity(run: Path, tmp_path: Path) -> None:
    promise = Promise(detectors=("mahalanobis", "reconstruction_places"))
    folder = export_run(run, tmp_path, report="none", promise=promise)
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    trained, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)["embedding"]
    with torch.no_grad():
        expected = trained.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255).embedding  # type: ignore[operator]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
