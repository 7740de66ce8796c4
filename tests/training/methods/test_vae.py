from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from tests.training.running.test_run import assert_equal, interrupt_in_epoch, train, weights
from training.data import ImageShape, load_data
from training.methods.vae import (
    Vae,
    VaeConfig,
    bernoulli_nll,
    corrupted,
    gaussian_kl,
    gaussian_nll,
    tc_decomposition,
)
from training.preprocessing import image_from_uint8
from training.running.run import load_model, open_run
from training.schedule import LoopConfig

SMALL: dict[str, Any] = {"latent_dim": 4, "embedding_dim": 16, "width": 4}


def test_kl_is_the_closed_form_of_torch_distributions() -> None:
    mu, logvar = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mu, logvar), expected)
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def test_bernoulli_nll_is_that_of_torch_distributions_and_finite_for_any_logit() -> None:
    logits, x = torch.randn(4, 1, 3, 3), torch.bernoulli(torch.full((4, 1, 3, 3), 0.5))
    expected = -Bernoulli(logits=logits).log_prob(x).flatten(1).sum(dim=1)
    torch.testing.assert_close(bernoulli_nll(logits, x), expected)
    extreme = torch.tensor([[[[150.0, -150.0]]], [[[-150.0, 150.0]]]])
    torch.testing.assert_close(
        bernoulli_nll(extreme, torch.tensor([1.0, 0.0]).expand(2, 1, 1, 2)), torch.tensor([0.0, 300.0])
    )


def test_gaussian_nll_uses_the_variance_that_fits_best() -> None:
    mean, x = torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4)
    got = gaussian_nll(mean, x).sum()
    best = (mean - x).square().mean()
    at_best = -Normal(mean, best.sqrt()).log_prob(x).sum()
    torch.testing.assert_close(got, at_best)
    for factor in (0.8, 1.25):
        assert got < -Normal(mean, (best * factor).sqrt()).log_prob(x).sum()
    assert math.isfinite(gaussian_nll(x, x).sum().item())


def posterior_and_sample(num_rows: int, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = torch.randn(num_rows, latent_dim), torch.randn(num_rows, latent_dim)
    return mu + torch.randn_like(mu) * (0.5 * logvar).exp(), mu, logvar


@pytest.mark.parametrize("dataset_size", [6, 1000])
def test_the_three_parts_sum_to_the_sampled_kl(dataset_size: int) -> None:
    z, mu, logvar = posterior_and_sample(6, 3)
    log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(dim=1)
    log_p = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    torch.testing.assert_close(sum(tc_decomposition(z, mu, logvar, dataset_size)), log_q - log_p)


def density(z: Tensor, mu: Tensor, logvar: Tensor) -> list[float]:
    """q(z_l|x) of each latent."""
    return Normal(mu, (0.5 * logvar).exp()).log_prob(z).exp().tolist()


def test_a_minibatch_that_is_the_whole_set_gives_the_parts_exactly() -> None:
    z, mu, logvar = (tensor.double() for tensor in posterior_and_sample(5, 3))
    mi, tc, dwkl = tc_decomposition(z, mu, logvar, 5)
    for i in range(5):
        q = [density(z[i], mu[j], logvar[j]) for j in range(5)]
        q_z = sum(math.prod(of_latents) for of_latents in q) / 5
        product = math.prod(sum(of_rows) / 5 for of_rows in zip(*q, strict=True))
        p_z = math.prod(density(z[i], torch.zeros(3), torch.zeros(3)))
        assert mi[i].item() == pytest.approx(math.log(math.prod(q[i]) / q_z))
        assert tc[i].item() == pytest.approx(math.log(q_z / product))
        assert dwkl[i].item() == pytest.approx(math.log(product / p_z))


def test_stratified_weights_are_the_papers_and_estimate_the_density_of_the_whole_set() -> None:
    num_all, num_batch = 6, 4
    others = num_batch - 1  # M of the paper
    z, mu, logvar = (tensor.double() for tensor in posterior_and_sample(num_all, 2))
    q = [math.prod(density(z[0], mu[j], logvar[j])) for j in range(num_all)]
    estimates = []
    for rest in combinations(range(1, num_all), others):
        rows = [0, *rest]
        mi, _, _ = tc_decomposition(z[rows], mu[rows], logvar[rows], num_all)
        estimates.append(q[0] * math.exp(-mi[0].item()))
        papers = 0.0
        for odd in rest:  # appendix C.2: one row of the minibatch carries what the others leave over
            usual = sum(q[j] / others for j in rest if j != odd)
            papers += q[0] / num_all + usual + q[odd] * (num_all - others) / (num_all * others)
        assert estimates[-1] == pytest.approx(papers / others)
    assert sum(estimates) / len(estimates) == pytest.approx(sum(q) / num_all)


def test_total_correlation_tells_latents_that_move_together() -> None:
    one, other = torch.randn(2, 400, 1)
    logvar = torch.full((400, 2), -4.0)

    def total_correlation(mu: Tensor) -> float:
        return tc_decomposition(mu + 0.14 * torch.randn_like(mu), mu, logvar, 400)[1].mean().item()

    assert abs(total_correlation(torch.cat([one, other], dim=1))) < 0.5
    assert total_correlation(torch.cat([one, one], dim=1)) > 1.0


def vae(image_size: int = 8, channels: int = 1, **config: Any) -> Vae:
    torch.manual_seed(0)
    return Vae(VaeConfig(**SMALL, **config), LoopConfig(), ImageShape(image_size, channels))


def floats(logged: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in logged.items()}


def logged_step(model: Vae, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> dict[str, float]:
    """What one step on 32 images, a quarter of an epoch, logs."""
    figures: dict[str, float] = {}
    monkeypatch.setattr(Vae, "log_dict", lambda self, logged, **_: figures.update(floats(logged)))
    monkeypatch.setattr(Vae, "trainer", SimpleNamespace(num_training_batches=4))
    torch.manual_seed(2)
    x = torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8)
    torch.manual_seed(seed)
    model.training_step(x, 0)
    return figures


@pytest.mark.parametrize("image_size", [8, 9, 28, 32, 50, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size_is_decoded_at_that_size(image_size: int, channels: int) -> None:
    model = vae(image_size, channels).eval()
    encoding = model.encode(torch.rand(2, channels, image_size, image_size))
    assert encoding.embedding.shape == (2, 16)
    assert encoding.latent is not None
    assert encoding.latent.shape == (2, 4)
    decoded = model.decode(encoding.latent)
    assert decoded.shape == (2, channels, image_size, image_size)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


@pytest.mark.parametrize("size", [(8, 64), (64, 8), (9, 30), (64, 96), (8, 500)])
def test_images_that_are_not_square_are_decoded_at_their_size(size: tuple[int, int]) -> None:
    model = Vae(VaeConfig(**SMALL), LoopConfig(), ImageShape(size[0], 3, width=size[1])).eval()
    latent = model.encode(torch.rand(2, 3, *size)).latent
    assert latent is not None
    assert model.decode(latent).shape == (2, 3, *size)
    assert sum(parameter.numel() for parameter in model.parameters()) < 10**6


def test_the_likelihood_follows_the_pixels_unless_it_is_named() -> None:
    assert vae().gaussian
    assert not vae(binarise="dynamic").gaussian
    assert not vae(likelihood="bernoulli").gaussian


def test_binarisation_is_the_one_that_was_named() -> None:
    x = torch.full((1, 1, 50, 50), 0.25)
    assert vae().binarised(x) is x
    assert vae(binarise="threshold").binarised(x).sum() == 0
    dynamic = vae(binarise="dynamic").binarised(x)
    assert set(dynamic.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < dynamic.mean() < 0.3


def test_beta_weighs_the_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    once, thrice = (logged_step(vae(beta=beta), monkeypatch) for beta in (1.0, 3.0))
    assert once["loss"] == pytest.approx(once["reconstruction_nats"] + once["kl_nats"], rel=1e-5)
    assert thrice["loss"] - once["loss"] == pytest.approx(2 * once["kl_nats"], rel=1e-4)


@pytest.mark.parametrize(
    ("weight", "part"),
    [("alpha", "mutual_information"), ("beta", "total_correlation"), ("gamma", "dimension_wise_kl")],
)
def test_each_weight_of_tcvae_weighs_its_part(weight: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once = logged_step(vae(objective="tcvae"), monkeypatch)
    thrice = logged_step(vae(objective="tcvae", **{weight: 3.0}), monkeypatch)
    assert abs(once[f"{part}_nats"]) > 0.01
    assert thrice["loss"] - once["loss"] == pytest.approx(2 * once[f"{part}_nats"], abs=1e-4)


def test_tcvae_counts_the_rows_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def noted(z_BL: Tensor, mu_BL: Tensor, logvar_BL: Tensor, dataset_size: int) -> tuple[Tensor, Tensor, Tensor]:
        sizes.append(dataset_size)
        return tc_decomposition(z_BL, mu_BL, logvar_BL, dataset_size)

    monkeypatch.setattr("training.methods.vae.tc_decomposition", noted)
    logged_step(vae(objective="tcvae"), monkeypatch)
    assert sizes == [128]


def test_a_plain_autoencoder_has_neither_noise_nor_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (logged_step(vae(objective="autoencoder"), monkeypatch, seed) for seed in (1, 3))
    assert first == again
    assert first.keys() == {"loss", "reconstruction_nats"}
    assert first["loss"] == first["reconstruction_nats"]
    encoding = vae(objective="autoencoder").eval().encode(torch.rand(2, 1, 8, 8))
    assert encoding.latent is not None
    assert encoding.latent.shape == (2, 4)
    assert encoding.latent_scale is None
    noisy, other = (logged_step(vae(), monkeypatch, seed) for seed in (1, 3))
    assert noisy["loss"] != other["loss"]


def test_corruption_blanks_whole_pixels() -> None:
    x = torch.rand(4, 3, 50, 50) + 0.1
    assert corrupted(x, 0.0) is x
    seen = corrupted(x, 0.3)
    blank = seen == 0
    assert 0.28 < blank.float().mean() < 0.32
    assert torch.equal(blank.all(dim=1), blank.any(dim=1))
    assert torch.equal(seen[~blank], x[~blank])


def test_denoising_asks_for_the_whole_image_from_a_part(tmp_path: Path) -> None:
    test = image_from_uint8(torch.from_numpy(load_data("digits").test.values))
    torch.manual_seed(0)
    seen = corrupted(test, 0.5)

    def error(corruption: float) -> float:
        config = VaeConfig(latent_dim=16, embedding_dim=64, width=8, objective="autoencoder", corruption=corruption)
        folder = train(tmp_path / str(corruption), epochs=30, config=config)
        model: Any = load_model(folder, open_run(folder)[0])
        with torch.no_grad():
            return float((model.decode(model.encode(seen).latent) - test).square().mean())

    assert error(0.5) < 0.9 * error(0.0)


@pytest.mark.parametrize(
    ("config", "losses"),
    [
        ({}, [37.7506, 36.7940, 36.3905]),
        ({"binarise": "dynamic"}, [46.0123, 45.3898, 45.0493]),
        ({"likelihood": "bernoulli", "beta": 4.0}, [48.2545, 46.9061, 46.3294]),
        ({"objective": "tcvae", "likelihood": "bernoulli", "beta": 4.0}, [46.0674, 45.3987, 45.0067]),
        ({"objective": "autoencoder"}, [39.0540, 37.7767, 37.2517]),
        ({"objective": "autoencoder", "corruption": 0.5}, [39.2081, 38.2451, 37.9104]),
    ],
)
def test_the_loss_curve_is_the_one_it_was(config: dict[str, Any], losses: list[float], tmp_path: Path) -> None:
    folder = train(tmp_path / "run", epochs=3, config=VaeConfig(**SMALL, **config))
    assert [row["loss"] for row in open_run(folder)[1].history] == pytest.approx(losses, rel=1e-4)


def test_a_tcvae_that_was_stopped_and_resumed_has_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VaeConfig(**SMALL, objective="tcvae", beta=4.0, corruption=0.2)
    whole = train(tmp_path / "whole", epochs=2, config=config)
    undo = interrupt_in_epoch(1, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", epochs=2, config=config)
    undo()
    assert_equal(weights(whole), weights(train(tmp_path / "stopped", epochs=2, config=config, resume=True)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: got 0, expected above 0"),
        ({"beta": -1.0}, "beta: got -1.0"),
        ({"objective": "tcvae", "alpha": -1.0}, "alpha: got -1.0, expected 0 or greater"),
        ({"gamma": 2.0}, "gamma: got 2.0, expected 1: vae does not use it"),
        ({"objective": "autoencoder", "beta": 4.0}, "beta: got 4.0, expected 1: autoencoder does not use it"),
        ({"corruption": 1.0}, "corruption: got 1.0, expected 0 or greater, below 1"),
        ({"likelihood": "gaussian", "binarise": "dynamic"}, "binarise: got dynamic with a gaussian likelihood"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VaeConfig(**config)


def test_images_below_eight_pixels_are_rejected() -> None:
    with pytest.raises(ValueError, match="image_size: got 4, expected 8 or more"):
        vae(image_size=4)
