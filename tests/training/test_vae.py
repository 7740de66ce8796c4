from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from training.data import ImageShape
from training.loop import LoopConfig
from training.methods.vae import Vae, VaeConfig, bernoulli_nll, gaussian_kl, gaussian_nll


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


def vae(image_size: int = 8, channels: int = 1, **config: object) -> Vae:
    torch.manual_seed(0)
    return Vae(
        VaeConfig(latent_dim=4, embedding_dim=16, width=4, **config), LoopConfig(), ImageShape(image_size, channels)
    )  # type: ignore[arg-type]


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


def test_beta_weighs_the_kl() -> None:
    x = torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8)

    def loss(beta: float) -> float:
        model = vae(beta=beta)
        model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
        torch.manual_seed(1)
        return model.training_step(x, 0).item()

    model = vae()
    torch.manual_seed(1)
    _, kl, _ = model.negative_elbo(x.permute(0, 3, 1, 2) / 255)
    assert loss(3.0) - loss(1.0) == pytest.approx(2 * kl.mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: got 0, expected above 0"),
        ({"beta": -1.0}, "beta: got -1.0"),
        ({"likelihood": "gaussian", "binarise": "dynamic"}, "binarise: got dynamic with a gaussian likelihood"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VaeConfig(**config)  # type: ignore[arg-type]


def test_images_below_eight_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size: got 4, expected 8 or more"):
        vae(image_size=4)
