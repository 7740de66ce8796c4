from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from benchmarks.processes.served import ServedProcess
from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from export.parity import clear_rows, clearest_rows
from latentserve import bundle
from latentserve.client import Client
from latentserve.inputs import INPUT
from service.api.open_inference.tensors import datatype
from service.engine.engine import Engine
from service.engine.providers import DeviceConfig
from service.scheduling.queue import Piece
from training.__main__ import Options, run_training
from training.data import DataError, ImageShape
from training.methods.vqvae import VqVae, VqVaeConfig, flat, straight_through, variance_of_all, vq_loss
from training.networks.codebook import EPSILON, Codebook, perplexity, usage
from training.networks.maps import MapDecoder, MapEncoder, pooled
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = VqVaeConfig(codebook_size=16, code_dim=4, width=4, halvings=1)


def vqvae(size: int | tuple[int, int] = 8, channels: int = 1, **config: Any) -> VqVae:
    torch.manual_seed(0)
    height, width = (size, size) if isinstance(size, int) else size
    return VqVae(replace(SMALL, **config), LoopConfig(), ImageShape(height, channels, width=width))


def train(folder: Path, *, resume: bool = False, epochs: int = 3, **config: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(epochs=epochs, batch_rows=256))
    return run_training("vqvae", replace(SMALL, **config), options)


def codebook(num_codes: int = 5, dim: int = 3, decay: float = 0.9, dead_share: float = 0.1) -> Codebook:
    return Codebook(num_codes, dim, decay, dead_share)


def test_the_nearest_code_is_that_of_scikit_learn_and_the_margin_says_how_clearly() -> None:
    torch.manual_seed(0)
    made, z = codebook(7, 4), torch.randn(50, 4)
    made.codes_KD.copy_(torch.randn(7, 4))
    distances, expected = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(made.codes_KD.numpy()).kneighbors(z)
    assert made.nearest(z).tolist() == expected[:, 0].tolist()
    apart = torch.from_numpy(np.diff(distances**2)[:, 0] / 2).float() / made.affinity(z).abs().max()
    torch.testing.assert_close(made.margin(z), apart, atol=1e-5, rtol=1e-4)


def test_the_moving_averages_are_those_of_the_paper() -> None:
    """Two steps, code by code, in plain numbers."""
    torch.manual_seed(0)
    made = codebook(dead_share=0.0).train()
    codes, counts, sums = np.zeros((5, 3)), np.zeros(5), np.zeros((5, 3))
    for step in range(2):
        z = torch.randn(40, 3)
        if step == 0:  # where codes begin is drawn; what follows is not
            made.revive(z)
            codes, counts, sums = (one.double().numpy().copy() for one in (made.codes_KD, made.counts_K, made.sums_KD))
        got, vectors = made(z)
        torch.testing.assert_close(vectors.double(), torch.from_numpy(codes)[got])
        nearest = [int(np.argmin([np.sum((row - code) ** 2) for code in codes])) for row in z.double().numpy()]
        assert got.tolist() == nearest
        for k in range(5):
            mine = [row for row, code in zip(z.double().numpy(), nearest, strict=True) if code == k]
            counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
            sums[k] = 0.9 * sums[k] + 0.1 * np.sum(mine, axis=0) if mine else 0.9 * sums[k]
        total = counts.sum()
        codes = np.stack([sums[k] / ((counts[k] + EPSILON) / (total + 5 * EPSILON) * total) for k in range(5)])
        np.testing.assert_allclose(made.codes_KD.numpy(), codes, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(made.counts_K.numpy(), counts, rtol=1e-5)


def test_moving_averages_without_memory_are_k_means() -> None:
    torch.manual_seed(0)
    made, z = codebook(decay=0.0, dead_share=0.0).train(), torch.randn(60, 3)
    made(z)
    nearest, _ = made(z)
    for k in range(5):
        torch.testing.assert_close(made.codes_KD[k], z[nearest == k].mean(dim=0), atol=1e-4, rtol=1e-4)


def test_codes_begin_on_vectors_of_the_first_batch_and_no_two_on_one() -> None:
    torch.manual_seed(0)
    made, z = codebook(), torch.randn(20, 3)
    made.revive(z)
    nearest, apart = made.nearest(z), torch.cdist(made.codes_KD, z)
    assert apart.amin(dim=1).max() < 1e-3
    assert len(apart.argmin(dim=1).unique()) == len(nearest.unique()) == 5


def test_a_dead_code_begins_again_and_a_living_one_stays() -> None:
    torch.manual_seed(0)
    made, z = codebook(dead_share=0.1).train(), torch.randn(50, 3)
    made.codes_KD.copy_(torch.tensor([[0.0, 0, 0], [90, 0, 0], [1, 1, 1], [0, 90, 0], [-1, 0, 0]]))
    made.counts_K.copy_(torch.tensor([20.0, 0.0, 10.0, 0.9, 1.1]))  # dead is below a tenth of 50 / 5
    before = made.codes_KD.clone()
    made.revive(z)
    moved = (made.codes_KD != before).any(dim=1)
    assert moved.tolist() == [False, True, False, True, False]
    assert torch.cdist(made.codes_KD[moved], z).amin(dim=1).max() < 1e-3
    never = codebook(dead_share=0.0)
    never.codes_KD.copy_(before)
    never.counts_K.copy_(torch.tensor([20.0, 0.0, 10.0, 0.9, 1.1]))
    never.revive(z)
    assert torch.equal(never.codes_KD, before)


def test_with_fewer_vectors_than_dead_codes_each_vector_is_taken_once() -> None:
    torch.manual_seed(0)
    made, z = codebook(5, 3, dead_share=0.5), torch.randn(2, 3)
    made.revive(z)
    assert (made.counts_K > 0).sum() == 2
    assert sorted(made.codes_KD[made.counts_K > 0][:, 0].tolist()) == sorted(z[:, 0].tolist())
    made.train()(torch.randn(3, 3))
    assert made.codes_KD.isfinite().all()


def test_in_eval_mode_the_codebook_learns_nothing() -> None:
    made = codebook().eval()
    made.codes_KD.copy_(torch.randn(5, 3))
    before = {name: one.clone() for name, one in made.state_dict().items()}
    made(torch.randn(30, 3))
    assert all(torch.equal(one, before[name]) for name, one in made.state_dict().items())


def test_usage_and_perplexity_of_known_counts() -> None:
    assert float(usage(torch.tensor([3.0, 0, 1, 0]))) == 0.5
    assert float(perplexity(torch.full((8,), 5.0))) == pytest.approx(8)
    assert float(perplexity(torch.tensor([9.0, 0, 0]))) == pytest.approx(1)


def test_the_gradient_goes_straight_through_and_the_commitment_pulls_the_encoder_alone() -> None:
    z, e = torch.randn(6, 4).requires_grad_(), torch.randn(6, 4).requires_grad_()
    assert torch.allclose(straight_through(z, e), e)
    towards = torch.randn(6, 4)
    (gradient,) = torch.autograd.grad((straight_through(z, e) * towards).sum(), z)
    torch.testing.assert_close(gradient, towards)
    x, decoded = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    share, commitment = vq_loss(decoded, x, z, e, torch.tensor(0.5), 0.25)
    assert share.item() == pytest.approx(float(((x - decoded) ** 2).mean()) / 0.5)
    got = torch.autograd.grad(commitment, (z, e), allow_unused=True)
    torch.testing.assert_close(got[0], 0.25 * 2 * (z - e).detach() / z.numel())
    assert got[1] is None


def test_the_variance_is_that_of_the_batch() -> None:
    x = torch.rand(5, 3, 4, 4)
    assert variance_of_all(x).item() == pytest.approx(float(x.var(correction=0)), rel=1e-5)
    assert variance_of_all(torch.ones(2, 1, 3, 3)).item() == pytest.approx(1e-8)


@pytest.mark.parametrize(("side", "cells"), [(7, 4), (8, 4), (7, 1), (3, 4), (5, 2)])
def test_pooling_is_that_of_torch(side: int, cells: int) -> None:
    x = torch.randn(2, 3, side, side + 1)
    num = (min(side, cells), min(side + 1, cells))
    torch.testing.assert_close(pooled(x, cells), F.adaptive_avg_pool2d(x, num).flatten(1))


@pytest.mark.parametrize(("size", "halvings"), [((8, 12), 1), ((13, 9), 2), ((28, 28), 2), ((32, 20), 3)])
def test_what_is_decoded_has_the_size_of_what_was_encoded(size: tuple[int, int], halvings: int) -> None:
    maps = MapEncoder(3, size, halvings, 4, 5)(torch.rand(2, 3, *size))
    assert maps.shape == (2, 5, size[0] >> halvings, size[1] >> halvings)
    assert MapDecoder(3, size, halvings, 4, 5)(maps).shape == (2, 3, *size)


def test_a_row_is_told_by_its_codes_alone() -> None:
    model = vqvae().eval()
    model.codebook.codes_KD.copy_(torch.randn(16, 4))
    x = torch.rand(3, 1, 8, 8)
    encoding = model.encode(x)
    assert encoding.codes is not None
    assert encoding.latent is not None
    assert (encoding.codes.dtype, tuple(encoding.codes.shape)) == (torch.int16, (3, 4, 4))
    of_codes = model.reconstruction(model.vectors(encoding.codes))
    torch.testing.assert_close(model.decode(encoding.latent), of_codes)
    torch.testing.assert_close(model.decode(model.vectors(encoding.codes).flatten(1)), of_codes)  # it stays itself
    *layers, to_codes = model.encoder
    features = torch.nn.Sequential(*layers)(x)
    torch.testing.assert_close(encoding.embedding, pooled(features, 4))
    torch.testing.assert_close(encoding.latent, to_codes(features).flatten(1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"codebook_size": 1}, "codebook_size: got 1, expected 2 to 32768"),
        ({"codebook_size": 32769}, "codebook_size: got 32769"),
        ({"code_dim": 0}, "code_dim: got 0, expected above 0"),
        ({"commitment": -0.1}, "commitment: got -0.1"),
        ({"decay": 1.0}, "decay: got 1.0, expected 0 or greater, below 1"),
        ({"dead_share": -1.0}, "dead_share: got -1.0"),
        ({"prior_share": 1.0}, "prior_share: got 1.0, expected 0 or greater, below 1"),
        ({"prior_layers": 0}, "prior_layers: got 0, expected above 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VqVaeConfig(**config)


def test_images_that_leave_no_place_are_rejected() -> None:
    with pytest.raises(ValueError, match="halvings: got 4 for images of 8 x 8, expected at most 3"):
        vqvae(halvings=4)


def test_a_codebook_larger_than_the_data_is_refused_before_training(tmp_path: Path) -> None:
    expected = "codebook_size: got 30000, expected at most 19152: 1197 training rows have 4 x 4 places each"
    with pytest.raises(DataError, match=expected):
        train(tmp_path / "run", codebook_size=30000)
    assert not (tmp_path / "run").exists()
    vqvae(codebook_size=32).survey(np.zeros((2, 8, 8, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "vqvae")


GOLDEN_LOSSES = (1.25383, 1.10201, 1.04177)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the network or the loop: say so in the commit."""
    history = open_run(run)[1].history
    assert [row["loss"] for row in history] == pytest.approx(GOLDEN_LOSSES, rel=1e-3)
    assert history[-1]["reconstruction_squared_error"] < history[0]["reconstruction_squared_error"]
    assert history[-1]["codebook_usage"] == 1
    assert 1 < history[-1]["codebook_perplexity"] <= 16


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
    assert {"codebook.codes_KD", "codebook.counts_K", "codebook.sums_KD"} <= whole.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_every_option_changes_what_is_learnt(run: Path, tmp_path: Path) -> None:
    def end(folder: Path) -> float:
        return open_run(folder)[1].history[0]["loss"]

    changed = {"commitment": 1.0, "decay": 0.5, "dead_share": 0.5, "learning_rate": 1e-2, "codebook_size": 8}
    losses = [end(run), *(end(train(tmp_path / name, epochs=1, **{name: to})) for name, to in changed.items())]
    assert len({round(loss, 6) for loss in losses}) == len(losses)
    assert vqvae(pooled_side=1).eval().encode(torch.rand(2, 1, 8, 8)).embedding.shape == (2, 4)


PRIOR = {"prior_share": 0.5, "prior_width": 8, "prior_layers": 2, "prior_learning_rate": 1e-2}


@pytest.fixture(scope="module")
def prior_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs: two of the autoencoder, then two of the prior."""
    return train(tmp_path_factory.mktemp("runs") / "prior", epochs=4, **PRIOR)


def test_a_prior_learns_the_codes_and_nothing_else_learns_meanwhile(prior_run: Path, tmp_path: Path) -> None:
    before = checkpoint.state_dict(train(tmp_path / "run", epochs=2) / CHECKPOINT)
    after = checkpoint.state_dict(prior_run / CHECKPOINT)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != "used_K")  # of an epoch
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"prior"}
    _, trained = open_run(prior_run)
    nats = [row["prior_nats"] for row in trained.history]
    assert nats[:2] == pytest.approx([16 * math.log(16)] * 2)  # places and codes: nothing is known yet
    assert nats[1] > nats[2] > nats[3] == trained.history[3]["loss"]
    assert trained.test["test_prior_nats"] < nats[1]


def test_a_resumed_prior_ends_with_the_weights_of_one_that_was_not_stopped(
    prior_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., None] = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", epochs=4, **PRIOR)
    monkeypatch.undo()
    train(tmp_path / "run", resume=True, epochs=4, **PRIOR)
    whole, resumed = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (prior_run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_samples_are_decoded_grids_of_the_prior_and_without_one_there_are_none(prior_run: Path) -> None:
    model = load_model(prior_run, open_run(prior_run)[0])
    assert isinstance(model, VqVae)
    assert model.prior is not None
    torch.manual_seed(3)
    images = model.samples(4)
    torch.manual_seed(3)
    grids = model.prior.sample(4, 4, 4)
    torch.testing.assert_close(images, model.reconstruction(model.vectors(grids)))
    assert images.shape == (4, 1, 8, 8)
    assert len(vqvae().samples(4)) == 0


def test_it_is_exported_with_parity_and_with_its_codes(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path / "models", report="none", promise=Promise(detectors=("mahalanobis",)))
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["embedding", "latent", "patches", "codes"]
    assert (manifest.outputs["codes"].dtype, manifest.outputs["codes"].shape) == ("int16", (4, 4))
    assert {figure.name for figure in manifest.evaluations} >= {"codebook_usage", "codebook_perplexity"}
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values
    rows = clear_rows(model, digits)
    got = GraphRunner(folder, manifest.graphs.values()).run(rows)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(rows).permute(0, 3, 1, 2) / 255)
    assert isinstance(expected.codes, Tensor)
    assert got["codes"].dtype == np.int16
    np.testing.assert_array_equal(got["codes"], expected.codes.numpy())
    np.testing.assert_allclose(got["embedding"], expected.embedding.numpy(), atol=1e-5)
    golden = bundle.load_golden(folder, manifest)
    assert golden["codes"].dtype == np.int16
    engine = Engine(folder, manifest, DeviceConfig("cpu", 1, 8))
    engine.check_golden(golden)
    (served,) = engine.run(INPUT, [Piece(rows[:5], frozenset({"codes"}))])
    np.testing.assert_array_equal(served["codes"], expected.codes.numpy()[:5])
    assert datatype(served["codes"].dtype) == "INT16"  # as the Open Inference Protocol answers it
    with ServedProcess(tmp_path / "models", tmp_path / "log") as process, Client(process.target) as client:
        analysis = client.analyze(rows[:5], ["codes"])
    assert analysis.codes is not None
    assert (analysis.codes.dtype, analysis.embeddings) == (np.int16, None)
    np.testing.assert_array_equal(analysis.codes, expected.codes.numpy()[:5])


def test_with_a_prior_the_likelihood_of_the_codes_is_exported_and_scores(prior_run: Path, tmp_path: Path) -> None:
    folder = export_run(prior_run, tmp_path, report="none", promise=Promise(detectors=("likelihood", "typicality")))
    manifest = bundle.load(folder)
    assert {"likelihood", "typicality"} <= {detector.name for detector in manifest.detectors}
    model = load_model(prior_run, open_run(prior_run)[0])
    assert isinstance(model, VqVae)
    assert model.prior is not None
    golden = bundle.load_golden(folder, manifest)
    with torch.no_grad():
        expected = model.prior.nll(torch.from_numpy(golden["codes"]).long())
    np.testing.assert_allclose(golden["nll"][:, 0], expected.numpy(), rtol=1e-5)


def test_rows_whose_codes_rounding_would_decide_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vqvae().eval()
    model.codebook.codes_KD.copy_(torch.randn(16, 4))
    rows = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    with torch.no_grad():
        margins = model.margin(torch.from_numpy(rows).permute(0, 3, 1, 2) / 255)
    monkeypatch.setattr("export.parity.CLEAR", float(margins.median()))
    kept = clear_rows(model, rows)
    assert len(kept) == 30
    np.testing.assert_array_equal(kept, rows[(margins > margins.median()).numpy()])
    best = sorted(np.argsort(-margins.numpy())[:8])
    np.testing.assert_array_equal(clearest_rows(model, rows, 8), rows[best])
    monkeypatch.setattr("export.parity.CLEAR", 1.0)
    np.testing.assert_array_equal(clear_rows(model, rows), rows)  # none is clear: all are compared
    assert flat(torch.zeros(2, 3, 4, 5)).shape == (40, 3)
