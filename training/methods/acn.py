"""ACN: associative compression networks.

A VAE pays for each latent by how far it is from one prior that all images share. Here each image is told relative to
one that is much like it: the prior is predicted from the code of a near neighbour among the training rows. That is how
one would send a whole data set whose order does not matter, each row after one that it resembles. What rows have in
common with their neighbours costs hardly anything then, so codes stay informative even where the decoder is a PixelCNN.

    loss = KL(q(z|x) || p(z|c')) - E_q(z|x)[log p(x|z)],    q(z|x) = N(mu(x), sigma(x)^2), nats
    c' ~ the K nearest of all training rows' codes to mu(x), without its own;    code of a row: its mu

Codes of all rows are kept, and a row's is refreshed whenever it is trained on. What a data set takes is reported twice:

    unordered    KL to one prior for all rows: the Gaussian with mean and covariance of the rows' z
    ordered      KL to the prior that the nearest training row's code predicts

Source: Graves, Menick and van den Oord, Associative compression networks for representation learning,
https://arxiv.org/abs/1804.02476.

What is ours: the prior is one Gaussian, so both KL are exact, and codes that no row has yet are zeros. The ordered
length is that of test rows that follow training rows. It does not count which one a row follows: not having to keep the
order of N rows saves about as much, log N - 1 nats a row. The *embedding* is the encoder's last hidden layer, as a
VAE's is (docs/adr/0001), and the code is the latent. `decode` is a decoder of pixels that do not see each other,
trained on codes that it cannot change: one pass, as of a VAE. What p would draw takes a pass for each place, and is for
pictures (`samples`, `daydream`). Served images are cut at 0.5 where pixels are binarised.

With several processes every rank keeps the codes of all rows: those of a step's rows are gathered. All else is a mean
over rows. BatchNorm sees all ranks.

Shape legend: B rows, A rows of all ranks, N training rows, K neighbours, C channels, H height, W width, D hidden layer,
L latent, P of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.conv import ConvDecoder, ConvEncoder
from training.networks.pixelcnn import PixelCnn, PixelCnnSize, drawn
from training.networks.pixels import Binarise, binarised, pixels_of
from training.networks.places import maps_of, patches_of
from training.preprocessing import image_from_uint8
from training.ranks import among_all, gathered, mine, num_of_all
from training.schedule import LoopConfig, warmup_then_cosine

CODES = "codes"


@dataclass(frozen=True)
class AcnConfig:
    """Hyperparameters of the method.

    Attributes:
        latent_dim: numbers of a code, L.
        hidden_dim: size of the encoder's last hidden layer.
        width: channels of the encoder after its first convolution; doubled at each halving.
        neighbours: nearest codes of which one is drawn, K.
        prior_dim: size of each of the prior's two hidden layers.
        decoder_width: features of a place in the PixelCNN.
        num_layers: gated layers of the PixelCNN.
        kernel: side of the square that a layer's receptive field is the upper half of; odd. The first one's is 7.
        num_parts: logistics in the mixture of 256 levels; used unless pixels are binarised.
        binarise: pixels for training and nats: `none`, `dynamic` (drawn anew each time) or `threshold` (at 0.5).
        block: side of the squares of binarised pixels that are predicted at once, as one of all their patterns.
        learning_rate: highest learning rate of Adam.
    """

    latent_dim: int = 32
    hidden_dim: int = 256
    width: int = 32
    neighbours: int = 5
    prior_dim: int = 256
    decoder_width: int = 32
    num_layers: int = 5
    kernel: int = 3
    num_parts: int = 5
    binarise: Binarise = "none"
    block: int = 1
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("latent_dim", "hidden_dim", "width", "neighbours", "prior_dim", "decoder_width", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.num_parts < 1 or self.learning_rate <= 0:
            raise ValueError(f"num_parts, learning_rate: got {self.num_parts}, {self.learning_rate}, expected above 0")
        _ = self.size  # which has a check of its own

    @property
    def size(self) -> PixelCnnSize:
        """Of the PixelCNN."""
        return PixelCnnSize(self.decoder_width, self.num_layers, self.kernel)


def kl_of_gaussians(mu_BL: Tensor, logvar_BL: Tensor, prior_mu_BL: Tensor, prior_logvar_BL: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(mu', sigma'^2)) of each row, [B], nats."""
    # 1/2 sum_j ((mu_j - mu'_j)^2 + sigma_j^2) / sigma'_j^2 - 1 + log sigma'_j^2 - log sigma_j^2
    away_BL = ((mu_BL - prior_mu_BL).square() + logvar_BL.exp()) * (-prior_logvar_BL).exp()
    return 0.5 * (away_BL - 1 + prior_logvar_BL - logvar_BL).sum(dim=1)


def kl_to_all(mu_BL: Tensor, logvar_BL: Tensor, all_mu_NL: Tensor, all_logvar_NL: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(m, S)) of each row, [B], nats: m and S are those of a z drawn from all of the rows' q."""
    all_mu_NL, mu_BL, logvar_BL = all_mu_NL.double(), mu_BL.double(), logvar_BL.double()
    mean_L = all_mu_NL.mean(dim=0)
    within_L = all_logvar_NL.double().exp().mean(dim=0)
    covariance_LL = (all_mu_NL - mean_L).T @ (all_mu_NL - mean_L) / len(all_mu_NL) + torch.diag(within_L)
    precision_LL = torch.linalg.inv(covariance_LL)
    # 1/2 (tr(S^-1 diag(sigma^2)) + (mu - m)^T S^-1 (mu - m) - L + log det S - sum_j log sigma_j^2)
    trace_B = logvar_BL.exp() @ precision_LL.diagonal()
    away_BL = mu_BL - mean_L
    distance_B = ((away_BL @ precision_LL) * away_BL).sum(dim=1)
    rest_B = torch.logdet(covariance_LL) - logvar_BL.sum(dim=1) - mu_BL.shape[1]
    kl_B: Tensor = 0.5 * (trace_B + distance_B + rest_B)
    return kl_B.to(all_logvar_NL.dtype)


def nearest(mu_BL: Tensor, codes_NL: Tensor, num: int, own_B: Tensor | None = None) -> Tensor:
    """Places of the nearest codes, nearest first, int64 [B, num], without a row's own."""
    # |mu - c|^2 = |mu|^2 - 2 mu.c + |c|^2, of which the first is the same for all codes
    squared_BN = codes_NL.square().sum(dim=1) - 2 * mu_BL @ codes_NL.T
    if own_B is not None:
        squared_BN[torch.arange(len(own_B), device=own_B.device), own_B] = float("inf")
    places_BK: Tensor = squared_BN.topk(num, dim=1, largest=False).indices
    return places_BK


class Acn(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    def __init__(self, config: AcnConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.sides = (shape.channels, *shape.size)
        sizes = (shape.channels, shape.size, config.width, config.hidden_dim)
        self.pixels = pixels_of(shape, config.binarise, config.block, config.num_parts)
        self.encoder = ConvEncoder(*sizes)
        self.posterior_head = nn.Linear(config.hidden_dim, 2 * config.latent_dim)
        self.prior = nn.Sequential(
            *(nn.Linear(config.latent_dim, config.prior_dim), nn.Tanh()),
            *(nn.Linear(config.prior_dim, config.prior_dim), nn.Tanh()),
            nn.Linear(config.prior_dim, 2 * config.latent_dim),
        )
        self.net = PixelCnn(self.pixels.numbers, self.pixels.outputs, config.size, config.latent_dim)
        self.decoder = ConvDecoder(*sizes, config.latent_dim)
        self.codes_2NL = torch.zeros(2, 0, config.latent_dim)
        """Mean and log variance of each training row's q; not of `state_dict`, as an export does not need them."""

    def keep(self, num_rows: int, device: torch.device) -> None:
        """See `training.methods.encoding.Keeping`."""
        self.codes_2NL = torch.zeros(2, num_rows, self.config.latent_dim, device=device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Codes that are resumed from are those that were stopped at."""
        checkpoint[CODES] = self.codes_2NL

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.codes_2NL = checkpoint[CODES].to(self.codes_2NL.device)

    def posterior(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), [B, L] each."""
        mu_BL, logvar_BL = self.posterior_head(self.encoder(x_BCHW)).chunk(2, dim=1)
        return mu_BL, logvar_BL

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """The hidden layer [B, D], the code [B, L] and q's deviation [B, L], and patches [B, h, w, P]."""
        x_BCHW = binarised(x_BCHW, "none" if self.config.binarise == "none" else "threshold")
        h_BD, maps = maps_of(self.encoder, x_BCHW)
        mu_BL, logvar_BL = self.posterior_head(h_BD).chunk(2, dim=1)
        return Encoding(h_BD, mu_BL, (0.5 * logvar_BL).exp(), patches_of(maps))

    def decode(self, z_BL: Tensor) -> Tensor:
        """The mean of each pixel alone, float [B, C, H, W], 0 to 1."""
        logits_BCHW: Tensor = self.decoder(z_BL)
        return logits_BCHW.sigmoid()

    def nll(self, x_BCHW: Tensor, z_BL: Tensor) -> Tensor:
        """-log p(x|z) of each row, [B], nats."""
        grid_BGhw = self.pixels.grid(x_BCHW)
        return self.pixels.nll(self.net(grid_BGhw, z_BL), grid_BGhw)

    def drawn_given(self, z_BL: Tensor) -> Tensor:
        """An image drawn from p(x|z) for each z, [B, C, H, W], 0 to 1; a pass for each place."""
        grid_BGhw = self.pixels.grid(torch.zeros(len(z_BL), *self.sides, device=z_BL.device))
        return self.pixels.image(drawn(lambda part_BGhw: self.net(part_BGhw, z_BL), self.pixels.draw, grid_BGhw))

    def daydream(self, x_BCHW: Tensor, num: int) -> list[Tensor]:
        """So many images, each of a code that is drawn from the prior which the last image's code predicts."""
        images = [binarised(x_BCHW, "none" if self.config.binarise == "none" else "threshold")]
        for _ in range(num):
            mu_BL, logvar_BL = self.prior(self.posterior(images[-1])[0]).chunk(2, dim=1)
            z_BL = mu_BL + torch.randn_like(mu_BL) * (0.5 * logvar_BL).exp()
            images.append(self.drawn_given(z_BL))
        return images[1:]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step on uint8 images and their places among the training rows."""
        x_BHWC, row_B = batch
        x_BCHW = binarised(image_from_uint8(x_BHWC), self.config.binarise)
        mu_BL, logvar_BL = self.posterior(x_BCHW)
        codes_NL = self.codes_2NL[0].to(mu_BL.dtype)
        near_BK = nearest(mu_BL.detach(), codes_NL, min(self.config.neighbours, len(codes_NL) - 1), row_B)
        chosen_B1 = mine(torch.randint(near_BK.shape[1], (num_of_all(len(near_BK)), 1))).to(near_BK.device)
        prior_mu_BL, prior_logvar_BL = self.prior(codes_NL[near_BK.gather(1, chosen_B1)[:, 0]]).chunk(2, dim=1)
        z_BL = mu_BL + mine(torch.randn_like(among_all(mu_BL))) * (0.5 * logvar_BL).exp()
        kl, nll = kl_of_gaussians(mu_BL, logvar_BL, prior_mu_BL, prior_logvar_BL).mean(), self.nll(x_BCHW, z_BL).mean()
        alone = F.binary_cross_entropy_with_logits(self.decoder(z_BL.detach()), x_BCHW, reduction="sum") / len(x_BCHW)
        seen_2BL = torch.stack([mu_BL, logvar_BL]).detach()
        self.codes_2NL[:, gathered(row_B)] = gathered(seen_2BL.transpose(0, 1)).transpose(0, 1).to(self.codes_2NL.dtype)
        figures = {"loss": kl + nll + alone, "kl_nats": kl, "reconstruction_nats": nll, "alone_nats": alone}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return figures["loss"]

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Nats on rows that were not trained on: ordered, each after the nearest training row, and unordered."""
        x_BCHW = binarised(image_from_uint8(x_BHWC), self.config.binarise)
        mu_BL, logvar_BL = self.posterior(x_BCHW)
        codes_NL = self.codes_2NL[0].to(mu_BL.dtype)
        near_B = nearest(mu_BL, codes_NL, 1)[:, 0]
        kl_B = kl_of_gaussians(mu_BL, logvar_BL, *self.prior(codes_NL[near_B]).chunk(2, dim=1))
        nll_B = self.nll(x_BCHW, mu_BL + torch.randn_like(mu_BL) * (0.5 * logvar_BL).exp())
        to_all_B = kl_to_all(mu_BL, logvar_BL, *self.codes_2NL)
        figures = {"test_ordered_nats": nll_B + kl_B, "test_unordered_nats": nll_B + to_all_B, "test_kl_nats": kl_B}
        self.log_dict({name: value_B.mean() for name, value_B in figures.items()}, batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
