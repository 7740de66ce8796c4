from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from latentserve import bundle
from tests.training.running.test_run import assert_equal, interrupt_in_epoch, weights
from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.acn import CODES, Acn, AcnConfig, kl_of_gaussians, kl_to_all, nearest
from training.running import checkpoint
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL: dict[str, Any] = {
    **{"latent_dim": 4, "hidden_dim": 16, "width": 4, "prior_dim": 16, "decoder_width": 8, "num_layers": 2},
    **{"binarise": "dynamic", "block": 2},
}
GOLDEN = [89.8305, 88.3862]


def train(folder: Path, *, resume: bool = False, **config: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(epochs=2, batch_rows=128))
    return run_training("acn", AcnConfig(**SMALL | config), options)


def acn(num_rows: int = 0, **config: Any) -> Acn:
    torch.manual_seed(0)
    model = Acn(AcnConfig(**SMALL | config), LoopConfig(), ImageShape(8, 1))
    model.keep(num_rows, torch.device("cpu"))
    return model


def images(num: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (num, 8, 8, 1), dtype=torch.uint8)


def logged(model: Acn, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the next step logs."""
    figures: dict[str, float] = {}
    monkeypatch.setattr(
        Acn, "log_dict", lambda self, found, **_: figures.update({name: one.item() for name, one in found.items()})
    )
    return figures


def test_both_kl_are_those_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mu, logvar, other, other_logvar = torch.randn(4, 5, 3)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(other, (other_logvar / 2).exp())).sum(dim=1)
    torch.testing.assert_close(kl_of_gaussians(mu, logvar, other, other_logvar), expected)
    all_mu, all_logvar = torch.randn(2, 50, 3)
    covariance = torch.cov(all_mu.T, correction=0) + torch.diag(all_logvar.exp().mean(dim=0))
    prior = MultivariateNormal(all_mu.mean(dim=0), covariance)
    one_by_one = [
        kl_divergence(MultivariateNormal(m, torch.diag(v.exp())), prior) for m, v in zip(mu, logvar, strict=True)
    ]
    torch.testing.assert_close(kl_to_all(mu, logvar, all_mu, all_logvar), torch.stack(one_by_one))


def test_neighbours_are_scikit_learn_s_without_a_row_s_own() -> None:
    codes = torch.randn(60, 4)
    rows = torch.tensor([7, 0, 33])
    found = NearestNeighbors(n_neighbors=6).fit(codes.numpy()).kneighbors(codes[rows].numpy())[1]
    assert nearest(codes[rows], codes, 5, rows).tolist() == found[:, 1:].tolist()  # the first is the row itself
    assert nearest(codes[rows], codes, 1)[:, 0].tolist() == rows.tolist()


def test_a_step_s_prior_is_predicted_from_one_of_the_nearest_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, rows = acn(40, neighbours=3, binarise="threshold"), images(6), torch.tensor([3, 9, 1, 30, 22, 5])
    model.codes_2NL = torch.randn(2, 40, 4)
    before, given, figures = model.codes_2NL.clone(), [], logged(model, monkeypatch)
    model.prior.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    model.training_step((batch, rows), 0)
    seen = (batch.permute(0, 3, 1, 2) > 127.5).float()
    with torch.no_grad():
        mu, logvar = model.posterior(seen)
        near = nearest(mu, before[0], 3, rows)
        prior = model.prior(given[0]).chunk(2, dim=1)
    for code, places in zip(given[0], near, strict=True):
        assert any(torch.equal(code, before[0, place]) for place in places)
    assert len({tuple(row.tolist()) for row in given[0]}) > 1
    assert figures["kl_nats"] == pytest.approx(kl_of_gaussians(mu, logvar, *prior).mean().item(), rel=1e-4)
    assert figures["loss"] == pytest.approx(
        figures["kl_nats"] + figures["reconstruction_nats"] + figures["alone_nats"], rel=1e-5
    )


def test_a_step_refreshes_the_codes_of_its_rows_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = acn(20, binarise="threshold"), torch.tensor([4, 17])
    logged(model, monkeypatch)
    model.training_step((images(2), rows), 0)
    with torch.no_grad():
        expected = torch.stack(model.posterior((images(2).permute(0, 3, 1, 2) > 127.5).float()))
    torch.testing.assert_close(model.codes_2NL[:, rows], expected)
    others = torch.ones(20, dtype=torch.bool)
    others[rows] = False
    assert not model.codes_2NL[:, others].any()


def test_reconstructions_do_not_change_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder of single pixels learns from codes and gives them no gradient."""

    def gradient(factor: float) -> list[torch.Tensor]:
        model = acn(10, binarise="threshold")
        for parameter in model.decoder.parameters():
            parameter.data *= factor
        logged(model, monkeypatch)
        torch.manual_seed(2)
        model.training_step((images(4), torch.arange(4)), 0).backward()  # type: ignore[no-untyped-call]
        assert any(one.grad is not None and one.grad.any() for one in model.decoder.parameters())
        return [parameter.grad for parameter in model.encoder.parameters() if parameter.grad is not None]

    for one, other in zip(gradient(1.0), gradient(3.0), strict=True):
        torch.testing.assert_close(one, other)


def test_what_a_test_row_takes_is_its_image_and_its_code_by_each_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    model = acn(30, binarise="threshold").eval()
    model.codes_2NL = torch.randn(2, 30, 4)
    figures = logged(model, monkeypatch)
    with torch.no_grad():
        model.test_step(images(5), 0)
        mu, logvar = model.posterior((images(5).permute(0, 3, 1, 2) > 127.5).float())
        near = nearest(mu, model.codes_2NL[0], 1)[:, 0]
        ordered = kl_of_gaussians(mu, logvar, *model.prior(model.codes_2NL[0, near]).chunk(2, dim=1)).mean().item()
        unordered = kl_to_all(mu, logvar, *model.codes_2NL).mean().item()
    assert figures["test_kl_nats"] == pytest.approx(ordered, rel=1e-4)
    difference = figures["test_unordered_nats"] - figures["test_ordered_nats"]
    assert difference == pytest.approx(unordered - ordered, rel=1e-3)


def test_a_daydream_goes_on_from_image_to_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = acn().eval(), torch.zeros(2, 1, 8, 8)
    asked = []
    monkeypatch.setattr(Acn, "drawn_given", lambda self, z: torch.full((2, 1, 8, 8), float(len(asked))))
    model.encoder.register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    dreamt = model.daydream(x, 3)
    assert [one.mean().item() for one in dreamt] == [1, 2, 3]
    assert [one.mean().item() for one in asked] == [0, 1, 2]  # each is encoded for the next


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on digits, by blocks."""
    return train(tmp_path_factory.mktemp("runs") / "acn")


def test_the_loss_curve_is_the_one_it_was(run: Path) -> None:
    assert [row["loss"] for row in open_run(run)[1].history] == pytest.approx(GOLDEN, rel=1e-4)


def test_a_run_that_was_stopped_and_resumed_has_the_same_weights_and_codes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = interrupt_in_epoch(1, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    undo()
    stopped = checkpoint.load(tmp_path / "stopped" / CHECKPOINT)[CODES]
    assert_equal(weights(run), weights(train(tmp_path / "stopped", resume=True)))
    whole, resumed = (checkpoint.load(folder / CHECKPOINT)[CODES] for folder in (run, tmp_path / "stopped"))
    assert torch.equal(whole, resumed)
    assert not torch.equal(stopped, whole)
    assert (whole[0] != 0).any(dim=1).float().mean() > 0.95  # the last batch of an epoch is dropped


def test_it_is_exported_with_parity_and_with_a_decoder(run: Path, tmp_path: Path) -> None:
    promise = Promise(detectors=("mahalanobis", "reconstruction_places"))
    folder = export_run(run, tmp_path, report="none", promise=promise)
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    assert {figure.name for figure in manifest.evaluations} >= {"ordered_nats", "unordered_nats", "kl_nats"}
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values[:9]
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255)  # type: ignore[operator]
    np.testing.assert_allclose(got["embedding"], expected.embedding.numpy(), atol=1e-5)
    assert got["reconstruction"].shape == digits.shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"neighbours": 0}, "neighbours: got 0, expected 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate: got 5, 0.0, expected above 0"),
        ({"kernel": 2}, "kernel: got 2, expected an odd number"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AcnConfig(**config)


def test_colour_is_not_binarised() -> None:
    with pytest.raises(ValueError, match="binarise: got dynamic for 3 channels"):
        Acn(AcnConfig(**SMALL), LoopConfig(), ImageShape(8, 3))
