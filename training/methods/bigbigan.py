"""BigBiGAN: a generator and an encoder that are each other's inverse because a discriminator cannot tell their pairs.

The generator G turns a latent z ~ N(0, I) into an image; the encoder E turns an image x into a Gaussian over latents.
A discriminator sees pairs, (x, E(x)) of the data and (G(z), z) of the model, and gives three scores of each
(training/networks/adversarial.py). It is trained to score data pairs high; E and G are trained to make it err. With
y = +1 for a data pair and -1 for a pair of the model:

    loss_D  = E[h(y s_x) + h(y s_z) + h(y s_xz)],  h(t) = max(0, 1 - t)                  (a hinge on EACH term)
    loss_EG = E[y (s_x + s_z + s_xz)]                                                    (no hinge: never saturates)

Source: Donahue and Simonyan, Large Scale Adversarial Representation Learning, https://arxiv.org/abs/1907.02544,
section 2, equations for L_D and L_EG.

As in the paper the *embedding* is the output of the encoder's backbone, in front of the MLP that gives the posterior.
Training images may be augmented (`views`), before any of the networks sees them.

What is ours: networks of the size of a digit; the encoder's scale is bounded, since an encoder free to be noise
matches the prior without looking at x; weights are averaged over steps and the average is what encodes and decodes.
Two terms are NOT in the paper (a weight of 0 leaves one out, the default). They ask in so many words for what the joint
term of a small discriminator asks for too softly, that E and G be each other's inverse:

    loss_EG += latent_regression * mean_j (E(G(z))_j - z_j)^2     (j: over latents)
    loss_EG += image_regression * mean_p (G(E(x))_p - x_p)^2      (p: over pixels)

The second is the explicit cycle of ALICE: Li et al., https://arxiv.org/abs/1709.01215.

With several processes the losses are means over rows, which DDP averages over ranks after each of the two steps, the
discriminator's and that of E and G; a rank has its part of z. BatchNorm of E and G sees all ranks, and the figures that
warn of a collapse are of the rows of all. Spectral norm depends on weights alone, which are the same everywhere.

Shape legend: B rows, C channels, H height, W width, D embedding, L latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from training.augmentations import STILL, ViewConfig, Views
from training.data import ImageShape
from training.lightning import LightningModule, LightningOptimizer, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.adversarial import Discriminator, EncoderGenerator, Scores
from training.networks.backbones import SMALL
from training.preprocessing import image_from_uint8
from training.ranks import gathered, mine, num_of_all
from training.schedule import LoopConfig, warmup_then_cosine

FIGURE_ROWS = 1000  # latents drawn for the variance ratio

Pair = tuple[Tensor, Tensor]
"""Images [B, C, H, W], 0 to 1, and their latents [B, L]."""


@dataclass(frozen=True)
class BigBiGanConfig:
    """Hyperparameters of the method.

    Attributes:
        latent_dim: number of latents, L.
        backbone: network of the encoder: `small`, or the name of a timm model.
        backbone_width: channels after the stem of `small` (its own: 16) and of timm's ResNets (64).
        hidden_dim: size of the hidden layers of the encoder's MLP and of the generator.
        width: channels after the discriminator's first convolution and before the generator's last.
        discriminator_dim: size of the hidden layers of F and H; those of J are twice as wide.
        spectral_gain: the spectral norm of every layer of the discriminator.
        largest_scale: upper bound of the encoder's standard deviation.
        latent_regression: weight of a term that is not in the paper; 0 is BigBiGAN.
        image_regression: weight of the other one; 0 is BigBiGAN.
        learning_rate: highest learning rate of generator and encoder.
        discriminator_learning_rate: highest learning rate of the discriminator.
        beta1: Adam's, in both optimizers; beta2 is 0.999.
        ema_decay: decay of the average of the weights that is served; 0 serves the last ones.
        views: how training images are augmented; by default they are not.
    """

    latent_dim: int = 16
    backbone: str = SMALL
    backbone_width: int | None = None
    hidden_dim: int = 256
    width: int = 16
    discriminator_dim: int = 256
    spectral_gain: float = 2.0
    largest_scale: float = 0.5
    latent_regression: float = 0.0
    image_regression: float = 0.0
    learning_rate: float = 1e-3
    discriminator_learning_rate: float = 1e-3
    beta1: float = 0.5
    ema_decay: float = 0.999
    views: ViewConfig = STILL

    def __post_init__(self) -> None:
        for name in (
            "latent_dim",
            "hidden_dim",
            "width",
            "discriminator_dim",
            "spectral_gain",
            "largest_scale",
            "learning_rate",
            "discriminator_learning_rate",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        for name in ("latent_regression", "image_regression"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater")
        for name in ("beta1", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater and below 1")


def discriminator_loss(data: Scores, model: Scores) -> Tensor:
    """What the discriminator minimises, averaged over rows."""
    # sum over s in {s_x, s_z, s_xz} of max(0, 1 - s(x, E(x))) + max(0, 1 + s(G(z), z))
    return torch.stack([F.relu(1 - s).mean() + F.relu(1 + t).mean() for s, t in zip(data, model, strict=True)]).sum()


def encoder_generator_loss(data: Scores, model: Scores) -> Tensor:
    """What encoder and generator minimise, averaged over rows."""
    # sum over s in {s_x, s_z, s_xz} of s(x, E(x)) - s(G(z), z)
    return torch.stack([s.mean() - t.mean() for s, t in zip(data, model, strict=True)]).sum()


def variance_ratio(encoded_BL: Tensor, z_BL: Tensor) -> Tensor:
    """Variance of E(G(z)) over that of z, averaged over dimensions: 0 if all is mapped to one latent, 1 at best."""
    return (encoded_BL.var(dim=0) / z_BL.var(dim=0)).mean()


def retrieval_at_1(reconstruction_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Share of rows whose reconstruction is nearer to their own image than to any other of the batch."""
    nearest_B = torch.cdist(reconstruction_BCHW.flatten(1), x_BCHW.flatten(1)).argmin(dim=1)
    return (nearest_B == torch.arange(len(x_BCHW), device=x_BCHW.device)).float().mean()


def detached(pair: Pair) -> Pair:
    """The same pair, through which no gradient flows back."""
    return pair[0].detach(), pair[1].detach()


def ema_with_warmup(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Moving average whose window grows with the steps: a short run is not served its first weights.

    Source: `num_updates` of tf.train.ExponentialMovingAverage.
    """

    @torch.no_grad()
    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        kept = min(decay, (1 + float(num_averaged)) / (10 + float(num_averaged)))
        return averaged + (1 - kept) * (current - averaged)

    return average


class BigBiGan(LightningModule):
    """The three networks and their training step. `encode` and `decode` are what is exported."""

    has_unary_scores = True
    discriminator_loss = staticmethod(discriminator_loss)
    encoder_generator_loss = staticmethod(encoder_generator_loss)

    def __init__(self, config: BigBiGanConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers that take turns
        self.config = config
        self.loop = loop
        self.views = Views(config.views, shape.channels)
        sizes = (shape.channels, shape.size, config.width)
        self.trained = EncoderGenerator(
            *sizes,
            config.backbone,
            config.backbone_width,
            config.hidden_dim,
            config.latent_dim,
            config.largest_scale,
        )
        self.served = AveragedModel(self.trained, avg_fn=ema_with_warmup(config.ema_decay), use_buffers=True)
        self.served.requires_grad_(False).eval()
        dims = (config.discriminator_dim, config.latent_dim)
        self.discriminator = Discriminator(*sizes, *dims, config.spectral_gain, self.has_unary_scores)

    def train(self, mode: bool = True) -> Self:
        """The averaged networks are never in training mode: their running statistics are averages too."""
        super().train(mode)
        self.served.eval()
        return self

    @property
    def averaged(self) -> EncoderGenerator:
        """Encoder and generator with averaged weights."""
        return cast(EncoderGenerator, self.served.module)

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D], mean [B, L] and standard deviation [B, L] of E(x), with averaged weights."""
        return Encoding(*self.averaged.posterior(x_BCHW))

    def decode(self, z_BL: Tensor) -> Tensor:
        """G(z), float [B, C, H, W], 0 to 1, with averaged weights."""
        return self.averaged.generate(z_BL)

    def samples(self, num_rows: int) -> Tensor:
        """G(z) for z ~ N(0, I)."""
        return self.decode(torch.randn(num_rows, self.config.latent_dim, device=self.device))

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step of the discriminator, then one of encoder and generator, on uint8 images."""
        x_BCHW = self.views(image_from_uint8(x_BHWC))
        z_BL = mine(torch.randn(num_of_all(len(x_BCHW)), self.config.latent_dim, device=self.device))
        data: Pair = (x_BCHW, self.trained.sample(x_BCHW))
        model: Pair = (self.trained.generate(z_BL), z_BL)
        discriminator_optimizer, optimizer = cast(list[LightningOptimizer], self.optimizers())

        loss_d = self.discriminator_loss(*self.scores(detached(data), detached(model)))
        self.take_step(discriminator_optimizer, loss_d)
        with self.toggled_optimizer(optimizer):  # the discriminator is given no gradient
            scores = self.scores(data, model)
            loss_eg = self.encoder_generator_loss(*scores) + self.regression(data, model)
            self.take_step(optimizer, loss_eg)
        self.served.update_parameters(self.trained)
        for scheduler in cast(list[LRScheduler], self.lr_schedulers()):  # Lightning leaves them to us here
            scheduler.step()
        self.log_step(loss_d, loss_eg, scores, x_BCHW)
        return (loss_d + loss_eg).detach()  # the loop stops on what is no number

    def scores(self, data: Pair, model: Pair) -> tuple[Scores, Scores]:
        """Scores of data pairs and of the model's, from one pass: the power iteration of both is the same."""
        images, latents = (torch.cat(both) for both in zip(data, model, strict=True))
        both = self.discriminator(images, latents)
        num = len(data[0])
        return Scores(*(s[:num] for s in both)), Scores(*(s[num:] for s in both))

    def regression(self, data: Pair, model: Pair) -> Tensor:
        """The terms that are not in the paper."""
        (x_BCHW, encoded_BL), (image_BCHW, z_BL) = data, model
        loss = z_BL.new_zeros(())
        if self.config.latent_regression:
            # mean_j (E(G(z))_j - z_j)^2
            loss = loss + self.config.latent_regression * F.mse_loss(self.trained.posterior(image_BCHW)[1], z_BL)
        if self.config.image_regression:
            # mean_p (G(E(x))_p - x_p)^2
            loss = loss + self.config.image_regression * F.mse_loss(self.trained.generate(encoded_BL), x_BCHW)
        return loss

    def take_step(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        """Gradients of `loss` alone, then the step."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def log_step(self, loss_d: Tensor, loss_eg: Tensor, scores: tuple[Scores, Scores], x_BCHW: Tensor) -> None:
        """Losses of every step, gaps between data and model, and at the end of an epoch what warns of a collapse."""
        figures = {"loss": loss_d + loss_eg, "loss_discriminator": loss_d, "loss_encoder_generator": loss_eg}
        for name, of_data, of_model in zip(Scores._fields, *scores, strict=True):
            figures[f"gap_{name}"] = of_data.mean() - of_model.mean()
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BCHW))
        if self.trainer.is_last_batch:
            self.log_dict(self.collapse_figures(gathered(x_BCHW)), on_step=False, on_epoch=True, batch_size=len(x_BCHW))

    @torch.no_grad()
    def collapse_figures(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """The known failure is an encoder that maps everything to one latent: both figures are near 0 then."""
        z_BL = torch.randn(FIGURE_ROWS, self.config.latent_dim, device=self.device)
        encoded_BL = self.encode(self.decode(z_BL)).latent
        latent_BL = self.encode(x_BCHW).latent
        assert encoded_BL is not None
        assert latent_BL is not None
        return {
            "variance_ratio": variance_ratio(encoded_BL, z_BL),
            "retrieval_at_1": retrieval_at_1(self.decode(latent_BL), x_BCHW),
        }

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Collapse figures on rows that were not trained on, each row among the others of its batch (1,000)."""
        figures = self.collapse_figures(image_from_uint8(x_BHWC))
        self.log_dict({f"test_{name}": value for name, value in figures.items()}, batch_size=len(x_BHWC))

    def configure_optimizers(self) -> Sequence[OptimizerLRSchedulerConfig]:
        """Adam twice, the discriminator's first, each with a short warm-up, then a cosine to zero."""
        config, num_steps = self.config, int(self.trainer.estimated_stepping_batches)
        rates = (config.discriminator_learning_rate, config.learning_rate)
        return [
            warmup_then_cosine(Adam(network.parameters(), rate, (config.beta1, 0.999)), self.loop, num_steps)
            for network, rate in zip((self.discriminator, self.trained), rates, strict=True)
        ]
