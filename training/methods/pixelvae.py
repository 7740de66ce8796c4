"""PixelVAE: a bottleneck whose decoder is a gated PixelCNN.

An encoder maps an image to a Gaussian over latents; the decoder is a PixelCNN that is told z at every place. It can see
the pixels around a place itself, so z has to hold only what these do not tell: what is drawn, in which hand, and
not where each stroke ends.

    loss = -E_q(z|x)[log p(x|z)] + KL(q(z|x) || N(0, I)) + auxiliary * -E_q(z|x)[log r(x|z)]
    log p(x|z) = sum_i log p(x_i | x_1, ..., x_(i - 1), z)                                           ([1], eq. 3 and 4)
    log r(x|z) = sum_i log r(x_i | z)

A PixelCNN models images well without any z, and a z that is not used costs nothing: the posterior collapses to the
prior. The last term guards against it [2]. r is a decoder of pixels that do not see each other, as a VAE's, and z
pays for what it tells r even where p would not need it. The bound on log p(x) is the first two terms alone.

Sources: [1] van den Oord et al., Conditional image generation with PixelCNN decoders, section 2.4,
https://arxiv.org/abs/1606.05328; the variational one: Gulrajani et al., PixelVAE, https://arxiv.org/abs/1611.05013;
[2] Lucas and Verbeek, Auxiliary guided autoregressive variational autoencoders, https://arxiv.org/abs/1711.11479.

What is ours: the *embedding* is the encoder's last hidden layer, as a VAE's is (docs/adr/0001), and the posterior's
mean is the latent. `decode` is r: one pass, and smooth as a VAE's is. What p would draw takes a pass for each place of
the grid, and is for pictures (`samples`). As with `pixelcnn`, served images are cut at 0.5 where pixels are binarised.

With several processes the loss is a mean over rows, so DDP's mean over ranks is all there is to it. BatchNorm sees all
ranks.

Shape legend: B rows, C channels, H height, W width, D hidden layer, L latent, P of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.conv import ConvDecoder, ConvEncoder
from training.networks.pixelcnn import PixelCnn, PixelCnnSize, drawn
from training.networks.pixels import Binarise, binarised, pixels_of
from training.networks.places import maps_of, patches_of
from training.preprocessing import image_from_uint8
from training.ranks import among_all, mine
from training.schedule import LoopConfig, warmup_then_cosine

ACTIVE = 0.01
"""Variance of a latent's mean over images above which it is in use; Burda et al., https://arxiv.org/abs/1509.00519."""


@dataclass(frozen=True)
class PixelVaeConfig:
    """Hyperparameters of the method.

    Attributes:
        latent_dim: number of latents, L.
        hidden_dim: size of the encoder's last hidden layer, D.
        width: channels of the encoder after its first convolution; doubled at each halving.
        decoder_width: features of a place in the PixelCNN.
        num_layers: gated layers of the PixelCNN.
        kernel: side of the square that a layer's receptive field is the upper half of; odd. The first one's is 7.
        auxiliary: weight of the decoder whose pixels do not see each other; 0: nothing guards against collapse, and
            reconstructions are not learned.
        num_parts: logistics in the mixture of 256 levels; used unless pixels are binarised.
        binarise: pixels for training and nats: `none`, `dynamic` (drawn anew each time) or `threshold` (at 0.5).
        block: side of the squares of binarised pixels that are predicted at once, as one of all their patterns.
        learning_rate: highest learning rate of Adam.
    """

    latent_dim: int = 32
    hidden_dim: int = 256
    width: int = 32
    decoder_width: int = 32
    num_layers: int = 5
    kernel: int = 3
    auxiliary: float = 0.1
    num_parts: int = 5
    binarise: Binarise = "none"
    block: int = 1
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("latent_dim", "hidden_dim", "width", "decoder_width", "num_layers", "num_parts", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if self.auxiliary < 0:
            raise ValueError(f"auxiliary: got {self.auxiliary}, expected 0 or greater")
        _ = self.size  # which has a check of its own

    @property
    def size(self) -> PixelCnnSize:
        """Of the PixelCNN."""
        return PixelCnnSize(self.decoder_width, self.num_layers, self.kernel)


def gaussian_kl(mu_BL: Tensor, logvar_BL: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) of each row, [B], nats."""
    # 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)
    return 0.5 * (mu_BL.square() + logvar_BL.exp() - logvar_BL - 1).sum(dim=1)


def independent_nll(logits_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """-log r(x|z) of each row for pixels 0 to 1, [B], nats; of grey ones the cross entropy."""
    # -[x log s(l) + (1 - x) log(1 - s(l))] = softplus(l) - l x
    return (nn.functional.softplus(logits_BCHW) - logits_BCHW * x_BCHW).flatten(1).sum(dim=1)


class PixelVae(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    def __init__(self, config: PixelVaeConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.sides = (shape.channels, *shape.size)
        self.test_mu: list[Tensor] = []
        sizes = (shape.channels, shape.size, config.width, config.hidden_dim)
        self.pixels = pixels_of(shape, config.binarise, config.block, config.num_parts)
        self.encoder = ConvEncoder(*sizes)
        self.posterior_head = nn.Linear(config.hidden_dim, 2 * config.latent_dim)
        self.net = PixelCnn(self.pixels.numbers, self.pixels.outputs, config.size, config.latent_dim)
        self.decoder = ConvDecoder(*sizes, config.latent_dim)

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """The hidden layer [B, D], the posterior's mean [B, L] and deviation [B, L], and patches [B, h, w, P]."""
        x_BCHW = binarised(x_BCHW, "none" if self.config.binarise == "none" else "threshold")
        h_BD, maps = maps_of(self.encoder, x_BCHW)
        mu_BL, logvar_BL = self.posterior_head(h_BD).chunk(2, dim=1)
        return Encoding(h_BD, mu_BL, (0.5 * logvar_BL).exp(), patches_of(maps))

    def decode(self, z_BL: Tensor) -> Tensor:
        """The mean of r(x|z), float [B, C, H, W], 0 to 1."""
        logits_BCHW: Tensor = self.decoder(z_BL)
        return logits_BCHW.sigmoid()

    def nll(self, x_BCHW: Tensor, z_BL: Tensor) -> Tensor:
        """-log p(x|z) of each row, [B], nats."""
        grid_BGhw = self.pixels.grid(x_BCHW)
        return self.pixels.nll(self.net(grid_BGhw, z_BL), grid_BGhw)

    def samples(self, num_rows: int) -> Tensor:
        """Drawn from p(x|z) for z ~ N(0, I), [B, C, H, W], 0 to 1."""
        return self.drawn_given(torch.randn(num_rows, self.config.latent_dim, device=self.device))

    def drawn_given(self, z_BL: Tensor) -> Tensor:
        """An image drawn from p(x|z) for each z, [B, C, H, W], 0 to 1; a pass for each place."""
        grid_BGhw = self.pixels.grid(torch.zeros(len(z_BL), *self.sides, device=z_BL.device))
        return self.pixels.image(drawn(lambda part_BGhw: self.net(part_BGhw, z_BL), self.pixels.draw, grid_BGhw))

    def terms(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-log p(x|z), KL and -log r(x|z) of each row, [B], nats, and mu [B, L]; z is drawn."""
        mu_BL, logvar_BL = self.posterior_head(self.encoder(x_BCHW)).chunk(2, dim=1)
        z_BL = mu_BL + mine(torch.randn_like(among_all(mu_BL))) * (0.5 * logvar_BL).exp()
        alone_B = independent_nll(self.decoder(z_BL), x_BCHW)
        return self.nll(x_BCHW, z_BL), gaussian_kl(mu_BL, logvar_BL), alone_B, mu_BL

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        nll_B, kl_B, alone_B, _ = self.terms(binarised(image_from_uint8(x_BHWC), self.config.binarise))
        loss = (nll_B + kl_B + self.config.auxiliary * alone_B).mean()
        figures = {"reconstruction_nats": nll_B.mean(), "kl_nats": kl_B.mean(), "auxiliary_nats": alone_B.mean()}
        self.log_dict({"loss": loss, **figures}, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Nats on rows that were not trained on: the bound on -log p(x), and what of it is z's."""
        nll_B, kl_B, alone_B, mu_BL = self.terms(binarised(image_from_uint8(x_BHWC), self.config.binarise))
        self.test_mu.append(mu_BL)
        figures = {"test_negative_elbo_nats": (nll_B + kl_B).mean(), "test_kl_nats": kl_B.mean()}
        self.log_dict(figures | {"test_auxiliary_nats": alone_B.mean()}, batch_size=len(x_BHWC))

    def on_test_epoch_end(self) -> None:
        """Active units: latents whose mean moves with the input."""
        mu_NL = torch.cat(self.test_mu)
        self.test_mu.clear()
        self.log("test_active_units", (mu_NL.var(dim=0) > ACTIVE).sum().float())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
