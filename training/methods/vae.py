"""Variational autoencoder (VAE) and beta-VAE.

An encoder maps an image x to a Gaussian over latents q(z|x); a decoder maps a latent to a distribution over
images p(x|z). Both are trained to maximise a lower bound of log p(x), the ELBO: reconstruct x from a sample of
q(z|x), and keep q(z|x) close to the prior N(0, I).

    loss = -E_q(z|x)[log p(x|z)] + beta KL(q(z|x) || N(0, I))                     (beta = 1: -ELBO, eq. 3)
    KL   = 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)                     (appendix B)

Sources: Kingma and Welling, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114; beta: Higgins et
al., beta-VAE, ICLR 2017; gaussian likelihood with its best variance: Rybkin, Daniilidis and Levine,
https://arxiv.org/abs/2006.13202, eq. 5.

What is ours: the *embedding* is the encoder's last hidden layer, not mu. A linear probe reads far more from it,
while mu, the *latent*, is what the decoder needs. Sums over pixels and latents, never means: a mean rescales beta.

Shape legend: B rows, C channels, H height, W width, D embedding, L latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import ImageShape
from training.loop import LoopConfig, warmup_then_cosine
from training.methods.encoding import Encoding
from training.networks import ConvDecoder, ConvEncoder, image_from_uint8


@dataclass(frozen=True)
class VaeConfig:
    """Knobs of the method.

    Attributes:
        latent_dim: L.
        embedding_dim: D, the encoder's last hidden layer.
        width: channels after the first convolution; doubled at each halving.
        beta: weight of the KL; 1 is the ELBO.
        likelihood: of a pixel: `bernoulli`, `gaussian`, or `auto`: bernoulli if pixels are binarised, else gaussian.
        binarise: pixels for training and nats: `none`, `dynamic` (drawn anew each time) or `threshold` (at 0.5).
            Served images are never binarised.
        learning_rate: of Adam, at its highest.
    """

    latent_dim: int = 32
    embedding_dim: int = 256
    width: int = 32
    beta: float = 1.0
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto"
    binarise: Literal["none", "dynamic", "threshold"] = "none"
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("latent_dim", "embedding_dim", "width", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if self.beta < 0:
            raise ValueError(f"beta: got {self.beta}, expected 0 or greater")
        if self.likelihood == "gaussian" and self.binarise != "none":
            raise ValueError(f"binarise: got {self.binarise} with a gaussian likelihood, expected none")


def gaussian_kl(mu_BL: Tensor, logvar_BL: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) of each row, [B], nats."""
    # 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)
    return 0.5 * (mu_BL.square() + logvar_BL.exp() - logvar_BL - 1).sum(dim=1)


def bernoulli_nll(logits_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log p(x|z) of each row for pixels 0 to 1, [B], nats."""
    # -[x log s(l) + (1 - x) log(1 - s(l))] = softplus(l) - l x: finite for any logit, also after export
    return (F.softplus(logits_BCHW) - logits_BCHW * x_BCHW).flatten(1).sum(dim=1)


def gaussian_nll(mean_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log p(x|z) of each row under the one variance that fits the batch best, [B], nats."""
    error_BCHW = (mean_BCHW - x_BCHW).square()
    variance = error_BCHW.mean().clamp_min(1e-6)  # sigma*^2 = MSE; the floor is far below one grey level
    return 0.5 * (error_BCHW / variance + variance.log() + math.log(2 * math.pi)).flatten(1).sum(dim=1)


class Vae(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    def __init__(self, config: VaeConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        auto = "gaussian" if config.binarise == "none" else "bernoulli"
        self.gaussian = (auto if config.likelihood == "auto" else config.likelihood) == "gaussian"
        self.test_mu: list[Tensor] = []
        self.encoder = ConvEncoder(shape.channels, shape.image_size, config.width, config.embedding_dim)
        self.posterior_head = nn.Linear(config.embedding_dim, 2 * config.latent_dim)
        self.decoder = ConvDecoder(
            shape.channels, shape.image_size, config.width, config.embedding_dim, config.latent_dim
        )

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D], posterior mean [B, L] and standard deviation [B, L]."""
        h_BD = self.encoder(x_BCHW)
        mu_BL, logvar_BL = self.posterior_head(h_BD).chunk(2, dim=1)
        return Encoding(embedding=h_BD, latent=mu_BL, latent_scale=(0.5 * logvar_BL).exp())

    def decode(self, z_BL: Tensor) -> Tensor:
        """The mean of p(x|z), float [B, C, H, W], 0 to 1."""
        logits_BCHW: Tensor = self.decoder(z_BL)
        return logits_BCHW.sigmoid()

    def negative_elbo(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction term [B], KL [B] (nats, one sample of z) and mu [B, L]."""
        mu_BL, logvar_BL = self.posterior_head(self.encoder(x_BCHW)).chunk(2, dim=1)
        z_BL = mu_BL + torch.randn_like(mu_BL) * (0.5 * logvar_BL).exp()
        logits_BCHW = self.decoder(z_BL)
        if self.gaussian:
            nll_B = gaussian_nll(logits_BCHW.sigmoid(), x_BCHW)
        else:
            nll_B = bernoulli_nll(logits_BCHW, x_BCHW)
        return nll_B, gaussian_kl(mu_BL, logvar_BL), mu_BL

    def binarised(self, x_BCHW: Tensor) -> Tensor:
        """The pixels that the likelihood sees."""
        if self.config.binarise == "dynamic":
            return torch.bernoulli(x_BCHW)
        if self.config.binarise == "threshold":
            return (x_BCHW > 0.5).to(x_BCHW.dtype)
        return x_BCHW

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        nll_B, kl_B, _ = self.negative_elbo(self.binarised(image_from_uint8(x_BHWC)))
        loss = (nll_B + self.config.beta * kl_B).mean()
        self.log_dict(
            {"loss": loss, "reconstruction_nats": nll_B.mean(), "kl_nats": kl_B.mean()},
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(x_BHWC),
        )
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Nats on rows that were not trained on, and how many latents are in use."""
        nll_B, kl_B, mu_BL = self.negative_elbo(self.binarised(image_from_uint8(x_BHWC)))
        self.test_mu.append(mu_BL)
        figures = {"test_negative_elbo_nats": (nll_B + kl_B).mean(), "test_kl_nats": kl_B.mean()}
        self.log_dict(figures, batch_size=len(x_BHWC))

    def on_test_epoch_end(self) -> None:
        """Active units: latents whose mean moves with the input.

        Source: Burda et al., https://arxiv.org/abs/1509.00519, section 5.2.
        """
        mu_NL = torch.cat(self.test_mu)
        self.test_mu.clear()
        self.log("test_active_units", (mu_NL.var(dim=0) > 0.01).sum().float())

    def configure_optimizers(self) -> Any:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
