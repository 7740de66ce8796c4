from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from latentserve import bundle
from tests.training.running.test_run import assert_equal, interrupt_in_epoch, weights
from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.pixelvae import PixelVae, PixelVaeConfig, gaussian_kl, independent_nll
from training.running.run import load_model, open_run
from training.schedule import LoopConfig

SMALL: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 16, "width": 4, "decoder_width": 8, "num_layers": 2}
BLOCKS: dict[str, Any] = {"binarise": "dynamic", "block": 2}
LOOP = LoopConfig(epochs=2, batch_rows=128)
GOLDEN = {"blocks": [48.79848, 47.86624], "levels": [223.46637, 222.06545]}


def train(folder: Path, *, resume: bool = False, loop: LoopConfig = LOOP, **config: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=loop)
    return run_training("pixelvae", PixelVaeConfig(**SMALL | config), options)


def vae(shape: ImageShape = ImageShape(8, 1), **config: Any) -> PixelVae:  # noqa: B008 (frozen)
    torch.manual_seed(0)
    return PixelVae(PixelVaeConfig(**SMALL | config), LoopConfig(), shape).eval()


def test_kl_and_the_auxiliary_term_are_those_of_torch_distributions() -> None:
    mu, logvar = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mu, logvar), expected)
    logits, x = torch.randn(4, 1, 3, 3), torch.bernoulli(torch.full((4, 1, 3, 3), 0.5))
    expected = -Bernoulli(logits=logits).log_prob(x).flatten(1).sum(dim=1)
    torch.testing.assert_close(independent_nll(logits, x), expected)


def test_a_latent_gives_a_distribution_of_images_and_another_one_another() -> None:
    """The likelihoods of all images of 8 x 8 pixels that are black but for 8 and those that are not sum to one."""
    model = vae(ImageShape(8, 1), binarise="threshold", block=2)
    net, pixels = model.net.double(), model.pixels
    images = torch.tensor([*itertools.product((0.0, 1.0), repeat=8)]).view(-1, 1, 2, 4).double()
    grid = pixels.grid(images)

    def likelihoods(z: torch.Tensor) -> torch.Tensor:
        return (-pixels.nll(net(grid, z.expand(len(grid), -1)), grid)).exp()

    one, other = (likelihoods(torch.full((1, 4), value).double()) for value in (-1.0, 1.0))
    assert one.sum().item() == pytest.approx(1)
    assert other.sum().item() == pytest.approx(1)
    assert (one - other).abs().sum() > 1e-3


def test_the_latent_is_the_posterior_s_mean_of_what_is_trained_on() -> None:
    x = torch.randint(0, 256, (5, 1, 8, 8)) / 255
    for config, seen in (({}, x), (BLOCKS, (x > 0.5).float())):
        model = vae(**config)
        encoding = model.encode(x)
        hidden = model.encoder(seen)
        mu, logvar = model.posterior_head(hidden).chunk(2, dim=1)
        assert encoding.latent is not None
        torch.testing.assert_close(encoding.embedding, hidden)
        torch.testing.assert_close(encoding.latent, mu)
        torch.testing.assert_close(encoding.latent_scale, (0.5 * logvar).exp())


@pytest.mark.parametrize(("size", "channels"), [((9, 30), 3), ((16, 8), 1)])
def test_one_pass_decodes_images_of_any_shape(size: tuple[int, int], channels: int) -> None:
    decoded = vae(ImageShape(size[0], channels, width=size[1])).decode(torch.randn(2, 4))
    assert decoded.shape == (2, channels, *size)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_samples_follow_the_latent() -> None:
    torch.manual_seed(0)
    model = vae(**BLOCKS)
    for layer in model.net.layers:
        torch.nn.init.normal_(layer.conditions.weight, std=3.0)  # type: ignore[union-attr, arg-type]
    z = torch.randn(6, 4)

    def drawn(z: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return model.drawn_given(z)

    assert set(drawn(z).unique().tolist()) == {0, 1}
    assert torch.equal(drawn(z), drawn(z))
    assert not torch.equal(drawn(z), drawn(-z))
    assert model.samples(3).shape == (3, 1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on digits, by blocks."""
    return train(tmp_path_factory.mktemp("runs") / "pixelvae", **BLOCKS)


@pytest.mark.parametrize(("config", "losses"), [(BLOCKS, GOLDEN["blocks"]), ({}, GOLDEN["levels"])])
def test_the_loss_curve_is_the_one_it_was(
    config: dict[str, Any], losses: list[float], run: Path, tmp_path: Path
) -> None:
    folder = run if config else train(tmp_path / "run")
    assert [row["loss"] for row in open_run(folder)[1].history] == pytest.approx(losses, rel=1e-4)


def test_the_loss_is_the_sum_of_its_terms(run: Path) -> None:
    last = open_run(run)[1].history[-1]
    whole = last["reconstruction_nats"] + last["kl_nats"] + 0.1 * last["auxiliary_nats"]
    assert last["loss"] == pytest.approx(whole, rel=1e-5)


def test_the_auxiliary_decoder_keeps_the_posterior_from_collapsing(tmp_path: Path) -> None:
    kl = {}
    for auxiliary in (0.0, 10.0):
        loop = LoopConfig(epochs=3, batch_rows=64)
        folder = train(tmp_path / str(auxiliary), loop=loop, auxiliary=auxiliary, learning_rate=5e-3, **BLOCKS)
        kl[auxiliary] = open_run(folder)[1].test["test_kl_nats"]
    assert kl[10.0] > 5 * kl[0.0]
    assert kl[10.0] > 1


def test_a_run_that_was_stopped_and_resumed_has_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = interrupt_in_epoch(1, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", **BLOCKS)
    undo()
    assert_equal(weights(run), weights(train(tmp_path / "stopped", resume=True, **BLOCKS)))


def test_it_is_exported_with_parity_and_with_a_decoder(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path, report="none", promise=Promise(detectors=("statistics_mahalanobis",)))
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    assert {figure.name for figure in manifest.evaluations} >= {"negative_elbo_nats", "kl_nats", "active_units"}
    assert [detector.name for detector in manifest.detectors] == ["statistics_mahalanobis"]
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values[:9]
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255)  # type: ignore[operator]
        decoded = model.decode(expected.latent)  # type: ignore[attr-defined]
    np.testing.assert_allclose(got["embedding"], expected.embedding.numpy(), atol=1e-5)
    np.testing.assert_allclose(got["reconstruction"], decoded.permute(0, 2, 3, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: got 0, expected above 0"),
        ({"auxiliary": -1.0}, "auxiliary: got -1.0, expected 0 or greater"),
        ({"kernel": 2}, "kernel: got 2, expected an odd number"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelVaeConfig(**config)


def test_images_it_cannot_take_are_rejected() -> None:
    with pytest.raises(ValueError, match="image_size: got 4, expected 8 or more"):
        vae(ImageShape(4, 1))
    with pytest.raises(ValueError, match="binarise: got dynamic for 3 channels"):
        vae(ImageShape(8, 3), binarise="dynamic")
