"""Variational autoencoder (VAE), beta-VAE, beta-TCVAE, and as smaller cases the plain and denoising autoencoder.

An encoder maps an image x to a Gaussian over latents q(z|x); a decoder maps a latent to a distribution over
images p(x|z). Both are trained to maximise a lower bound of log p(x), the ELBO: reconstruct x from a sample of
q(z|x), and keep q(z|x) close to the prior N(0, I). beta-TCVAE splits the KL in three, to weigh what ties latents
to each other apart from what ties them to x.

    vae          -E_q(z|x)[log p(x|z)] + beta KL(q(z|x) || N(0, I))          (beta = 1: -ELBO, [1] eq. 3)
    tcvae        -E_q(z|x)[log p(x|z)] + alpha MI + beta TC + gamma DWKL     ([3] eq. 4; all 1: -ELBO in expectation)
    autoencoder  -log p(x|z), z = mu: no sampling, no penalty, no latent_scale

Any of them denoises if `corruption` is above 0: the encoder sees an image with pixels blanked, the decoder is asked
for the whole one [5].

Sources: [1] Kingma and Welling, https://arxiv.org/abs/1312.6114; [2] beta: Higgins et al., beta-VAE, ICLR 2017;
[3] Chen et al., beta-TCVAE, https://arxiv.org/abs/1802.04942; [4] gaussian likelihood with its best variance:
Rybkin et al., https://arxiv.org/abs/2006.13202, eq. 5; [5] Vincent et al., Denoising Autoencoders, ICML 2008.

What is ours: the *embedding* is the encoder's last hidden layer, not mu. A linear probe reads far more from it,
while mu, the *latent*, is what the decoder needs. Sums over pixels and latents, never means: a mean rescales beta.
The weights of minibatch-stratified sampling are those of [3] averaged over which row gets the odd one.

With several processes the loss is a mean over rows, so DDP's mean over ranks is all there is to it, but for two cases.
The best variance of a gaussian likelihood is that of the rows of all ranks, with its gradient. `tcvae` asks how likely
z is under every posterior of the batch, so z, mu and sigma of all ranks are gathered. BatchNorm sees all ranks.

Shape legend: B rows, A rows of all ranks, C channels, H height, W width, D embedding, L latent; BBL: row of z, row of
q, latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.conv import ConvDecoder, ConvEncoder
from training.networks.places import maps_of, patches_of
from training.preprocessing import image_from_uint8
from training.ranks import among_all, gathered, mean_of_all, mine
from training.schedule import LoopConfig, warmup_then_cosine


@dataclass(frozen=True)
class VaeConfig:
    """Hyperparameters of the method.

    Attributes:
        latent_dim: number of latents, L.
        embedding_dim: size of the embedding, D, which is the encoder's last hidden layer.
        width: channels after the first convolution; doubled at each halving.
        objective: `vae` (with beta = 1 the ELBO), `tcvae` (beta-TCVAE) or `autoencoder`.
        beta: weight of the KL, with `tcvae` of the total correlation; 1 is the ELBO.
        alpha: weight of the mutual information of image and latent; `tcvae` only.
        gamma: weight of the dimension-wise KL; `tcvae` only.
        corruption: share of the pixels that are blanked in training, 0 or greater, below 1; above 0 it denoises.
        likelihood: of a pixel: `bernoulli`, `gaussian`, or `auto`, which is bernoulli if pixels are binarised, else
            gaussian.
        binarise: pixels for training and nats: `none`, `dynamic` (drawn anew each time) or `threshold` (at 0.5).
            Served images are never binarised.
        learning_rate: highest learning rate of Adam.
    """

    latent_dim: int = 32
    embedding_dim: int = 256
    width: int = 32
    objective: Literal["vae", "tcvae", "autoencoder"] = "vae"
    beta: float = 1.0
    alpha: float = 1.0
    gamma: float = 1.0
    corruption: float = 0.0
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto"
    binarise: Literal["none", "dynamic", "threshold"] = "none"
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("latent_dim", "embedding_dim", "width", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        used = {"vae": ("beta",), "tcvae": ("beta", "alpha", "gamma"), "autoencoder": ()}[self.objective]
        for name in ("beta", "alpha", "gamma"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater")
            if getattr(self, name) != 1 and name not in used:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1: {self.objective} does not use it")
        if not 0 <= self.corruption < 1:
            raise ValueError(f"corruption: got {self.corruption}, expected 0 or greater, below 1")
        if self.likelihood == "gaussian" and self.binarise != "none":
            raise ValueError(f"binarise: got {self.binarise} with a gaussian likelihood, expected none")


def gaussian_kl(mu_BL: Tensor, logvar_BL: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) of each row, [B], nats."""
    # 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)
    return 0.5 * (mu_BL.square() + logvar_BL.exp() - logvar_BL - 1).sum(dim=1)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Log density of N(mu, sigma^2) at each element of z, nats."""
    return -0.5 * ((z - mu).square() * (-logvar).exp() + logvar + math.log(2 * math.pi))


def tc_decomposition(
    z_BL: Tensor, mu_BL: Tensor, logvar_BL: Tensor, dataset_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual information, total correlation and dimension-wise KL, each [B], nats; their sum is log q(z|x) - log p(z).

    A batch of B rows shows mutual information up to about log B; beyond it few neighbours are left and then, up to
    log N, only the row itself. TC comes out too low there, even below 0, and a large beta rewards narrow posteriors
    instead of independent ones: raise alpha and gamma, or B, until the mutual information is near log B.

    Args:
        z_BL: one sample of each row's q(z|x) = N(mu, sigma^2).
        mu_BL: of a minibatch drawn without replacement.
        logvar_BL: log sigma^2.
        dataset_size: rows that the minibatch is drawn from, B or more.
    """
    # z_i came from row i, one of N; the B - 1 others stand for the N - 1 others:
    #     q(z_i) ~ 1/N q(z_i|x_i) + (N - 1) / (N (B - 1)) sum_{j != i} q(z_i|x_j)                 ([3] appendix C.2)
    # MI = log q(z|x) / q(z),   TC = log q(z) / prod_l q(z_l),   DWKL = sum_l log q(z_l) / p(z_l)         ([3] eq. 2)
    num_rows, num_others = len(z_BL), len(z_BL) - 1
    weight_BB = z_BL.new_full((num_rows, num_rows), (dataset_size - 1) / (dataset_size * num_others))
    log_weight_BB = weight_BB.fill_diagonal_(1 / dataset_size).log()
    log_q_BBL = log_normal(z_BL[:, None], mu_BL[None], logvar_BL[None])
    log_qzx_B = log_normal(z_BL, mu_BL, logvar_BL).sum(dim=1)
    log_qz_B = (log_weight_BB + log_q_BBL.sum(dim=2)).logsumexp(dim=1)
    log_product_B = (log_weight_BB[:, :, None] + log_q_BBL).logsumexp(dim=1).sum(dim=1)
    log_pz_B = log_normal(z_BL, torch.zeros_like(z_BL), torch.zeros_like(z_BL)).sum(dim=1)
    return log_qzx_B - log_qz_B, log_qz_B - log_product_B, log_product_B - log_pz_B


def bernoulli_nll(logits_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log p(x|z) of each row for pixels 0 to 1, [B], nats."""
    # -[x log s(l) + (1 - x) log(1 - s(l))] = softplus(l) - l x: finite for any logit, also after export
    return (F.softplus(logits_BCHW) - logits_BCHW * x_BCHW).flatten(1).sum(dim=1)


def gaussian_nll(mean_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log p(x|z) of each row under the one variance that fits the batch best, [B], nats."""
    error_BCHW = (mean_BCHW - x_BCHW).square()
    variance = mean_of_all(error_BCHW.mean()).clamp_min(1e-6)  # sigma*^2 = MSE; the floor is far below one grey level
    return 0.5 * (error_BCHW / variance + variance.log() + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def sampled(mu_BL: Tensor, logvar_BL: Tensor | None) -> Tensor:
    """One z of each row, [B, L]: mu + sigma epsilon ([1] eq. 10), or mu where there is no sigma."""
    return mu_BL if logvar_BL is None else mu_BL + mine(torch.randn_like(among_all(mu_BL))) * (0.5 * logvar_BL).exp()


def corrupted(x_BCHW: Tensor, share: float) -> Tensor:
    """The images with that share of their pixels, all channels of each, set to 0."""
    if share == 0:
        return x_BCHW
    return x_BCHW * (mine(torch.rand_like(among_all(x_BCHW[:, :1]))) >= share)


class Vae(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    def __init__(self, config: VaeConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        auto = "gaussian" if config.binarise == "none" else "bernoulli"
        self.gaussian = (auto if config.likelihood == "auto" else config.likelihood) == "gaussian"
        self.test_mu: list[Tensor] = []
        sizes = (shape.channels, shape.size, config.width, config.embedding_dim)
        num_moments = 1 if config.objective == "autoencoder" else 2
        self.encoder = ConvEncoder(*sizes)
        self.posterior_head = nn.Linear(config.embedding_dim, num_moments * config.latent_dim)
        self.decoder = ConvDecoder(*sizes, config.latent_dim)

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D], posterior mean [B, L], standard deviation [B, L], and patches [B, h, w, D]."""
        h_BD, maps = maps_of(self.encoder, x_BCHW)
        mu_BL, logvar_BL = self.posterior(h_BD)
        scale_BL = None if logvar_BL is None else (0.5 * logvar_BL).exp()
        return Encoding(h_BD, mu_BL, scale_BL, patches_of(maps))

    def posterior(self, h_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean [B, L] and log variance [B, L], or None where z is the mean itself."""
        mu_BL, *logvar = self.posterior_head(h_BD).split(self.config.latent_dim, dim=1)
        return mu_BL, logvar[0] if logvar else None

    def decode(self, z_BL: Tensor) -> Tensor:
        """The mean of p(x|z), float [B, C, H, W], 0 to 1."""
        logits_BCHW: Tensor = self.decoder(z_BL)
        return logits_BCHW.sigmoid()

    def samples(self, num_rows: int) -> Tensor:
        """Means of p(x|z) for z ~ N(0, I); none of an autoencoder, which has no prior."""
        num_rows = 0 if self.config.objective == "autoencoder" else num_rows
        return self.decode(torch.randn(num_rows, self.config.latent_dim, device=self.device))

    def reconstruction(self, z_BL: Tensor, x_BCHW: Tensor) -> Tensor:
        """-log p(x|z) of each row, [B], nats."""
        logits_BCHW = self.decoder(z_BL)
        return gaussian_nll(logits_BCHW.sigmoid(), x_BCHW) if self.gaussian else bernoulli_nll(logits_BCHW, x_BCHW)

    def penalty(self, z_BL: Tensor, mu_BL: Tensor, logvar_BL: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the objective adds to the reconstruction term, [B], and its parts for the log, nats."""
        config, kl_B = self.config, gaussian_kl(mu_BL, logvar_BL)
        if config.objective == "vae":
            return config.beta * kl_B, {"kl_nats": kl_B.mean()}
        z_AL, mu_AL, logvar_AL = (gathered(one_BL) for one_BL in (z_BL, mu_BL, logvar_BL))
        num_rows = len(z_AL) * int(self.trainer.num_training_batches)  # that an epoch goes through
        mi_B, tc_B, dwkl_B = (mine(part_A) for part_A in tc_decomposition(z_AL, mu_AL, logvar_AL, num_rows))
        parts = {"kl": kl_B, "mutual_information": mi_B, "total_correlation": tc_B, "dimension_wise_kl": dwkl_B}
        figures = {f"{name}_nats": part_B.mean() for name, part_B in parts.items()}
        return config.alpha * mi_B + config.beta * tc_B + config.gamma * dwkl_B, figures

    def binarised(self, x_BCHW: Tensor) -> Tensor:
        """The pixels that the likelihood sees."""
        if self.config.binarise == "dynamic":
            return mine(torch.bernoulli(among_all(x_BCHW)))
        if self.config.binarise == "threshold":
            return (x_BCHW > 0.5).to(x_BCHW.dtype)
        return x_BCHW

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        x_BCHW = self.binarised(image_from_uint8(x_BHWC))
        mu_BL, logvar_BL = self.posterior(self.encoder(corrupted(x_BCHW, self.config.corruption)))
        z_BL = sampled(mu_BL, logvar_BL)
        loss_B = nll_B = self.reconstruction(z_BL, x_BCHW)
        figures = {"reconstruction_nats": nll_B.mean()}
        if logvar_BL is not None:
            penalty_B, parts = self.penalty(z_BL, mu_BL, logvar_BL)
            loss_B = nll_B + penalty_B
            figures |= parts
        loss = loss_B.mean()
        self.log_dict({"loss": loss, **figures}, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Nats on rows that were not trained on, uncorrupted, and how many latents are in use."""
        x_BCHW = self.binarised(image_from_uint8(x_BHWC))
        mu_BL, logvar_BL = self.posterior(self.encoder(x_BCHW))
        self.test_mu.append(mu_BL)
        nll_B = self.reconstruction(sampled(mu_BL, logvar_BL), x_BCHW)
        if logvar_BL is None:
            figures = {"test_reconstruction_nats": nll_B.mean()}
        else:
            kl_B = gaussian_kl(mu_BL, logvar_BL)
            figures = {"test_negative_elbo_nats": (nll_B + kl_B).mean(), "test_kl_nats": kl_B.mean()}
        self.log_dict(figures, batch_size=len(x_BHWC))

    def on_test_epoch_end(self) -> None:
        """Active units: latents whose mean moves with the input.

        Source: Burda et al., https://arxiv.org/abs/1509.00519, section 5.2.
        """
        mu_NL = torch.cat(self.test_mu)
        self.test_mu.clear()
        self.log("test_active_units", (mu_NL.var(dim=0) > 0.01).sum().float())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
