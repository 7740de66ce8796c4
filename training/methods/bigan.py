"""BiGAN: BigBiGAN's plain case, a discriminator of pairs alone with the loss of the first GANs.

The generator G turns a latent z ~ N(0, I) into an image, the encoder E an image into a latent. A discriminator is shown
pairs, (x, E(x)) of the data and (G(z), z) of the model. If it can tell them apart no better than chance, E and G
are each other's inverse, without either having been asked to reconstruct anything. With s its score of a pair and
D = sigmoid(s):

    loss_D  = -E[log D(x, E(x))] - E[log(1 - D(G(z), z))]  = E[softplus(-s(x, E(x)))] + E[softplus(s(G(z), z))]
    loss_EG = -E[log(1 - D(x, E(x)))] - E[log D(G(z), z)]  = E[softplus(s(x, E(x)))] + E[softplus(-s(G(z), z))]

Source: Donahue, Krähenbühl and Darrell, Adversarial feature learning, https://arxiv.org/abs/1605.09782: equation 3, and
section 3.4 for loss_EG, which has the labels swapped instead of the sign, so that it does not saturate.

Step, networks, averaged weights and what is served are BigBiGAN's (training/methods/bigbigan.py), which has unary
scores, a hinge and an encoder with noise besides. Here E is deterministic, so there is no latent_scale. As there the
*embedding* is the output of the encoder's backbone.

What is ours: networks of the size of a digit, a discriminator under spectral norm where the paper has BatchNorm,
averaged weights. With several processes it is as BigBiGAN: means over rows, which DDP averages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from training.augmentations import STILL, ViewConfig
from training.methods.bigbigan import BigBiGan
from training.methods.encoding import Encoding
from training.networks.adversarial import Scores
from training.networks.backbones import SMALL


@dataclass(frozen=True)
class BiGanConfig:
    """Hyperparameters of the method.

    Attributes:
        latent_dim: number of latents, L.
        backbone: network of the encoder: `small`, or the name of a timm model.
        backbone_width: channels after the stem of `small` (its own: 16) and of timm's ResNets (64).
        hidden_dim: size of the hidden layers of the encoder's MLP and of the generator.
        width: channels after the discriminator's first convolution and before the generator's last.
        discriminator_dim: size of the discriminator's hidden layers; those of pairs are twice as wide.
        spectral_gain: the spectral norm of every layer of the discriminator.
        learning_rate: highest learning rate of generator and encoder.
        discriminator_learning_rate: highest learning rate of the discriminator.
        beta1: Adam's, in both optimizers; beta2 is 0.999.
        ema_decay: decay of the average of the weights that is served; 0 serves the last ones.
        views: how training images are augmented; by default they are not.
    """

    latent_dim: int = 32
    backbone: str = SMALL
    backbone_width: int | None = None
    hidden_dim: int = 256
    width: int = 16
    discriminator_dim: int = 256
    spectral_gain: float = 3.0
    learning_rate: float = 1e-3
    discriminator_learning_rate: float = 1e-3
    beta1: float = 0.5
    ema_decay: float = 0.999
    views: ViewConfig = STILL
    largest_scale: ClassVar[float] = 0.0
    latent_regression: ClassVar[float] = 0.0
    image_regression: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        above_0 = ("latent_dim", "hidden_dim", "width", "discriminator_dim", "spectral_gain", "learning_rate")
        for name in (*above_0, "discriminator_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        for name in ("beta1", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater and below 1")


def pair_discriminator_loss(data: Scores, model: Scores) -> Tensor:
    """What the discriminator minimises, averaged over rows."""
    # -log sigmoid(s(x, E(x))) - log(1 - sigmoid(s(G(z), z)))
    return F.softplus(-data.joint).mean() + F.softplus(model.joint).mean()


def pair_encoder_generator_loss(data: Scores, model: Scores) -> Tensor:
    """What encoder and generator minimise, averaged over rows."""
    # -log(1 - sigmoid(s(x, E(x)))) - log sigmoid(s(G(z), z))
    return F.softplus(data.joint).mean() + F.softplus(-model.joint).mean()


class BiGan(BigBiGan):
    """BigBiGAN's step with other losses, a discriminator of pairs alone and an encoder without noise."""

    has_unary_scores = False
    discriminator_loss = staticmethod(pair_discriminator_loss)
    encoder_generator_loss = staticmethod(pair_encoder_generator_loss)

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D] and latent E(x) [B, L], with averaged weights."""
        h_BD, mean_BL, _ = self.averaged.posterior(x_BCHW)
        return Encoding(h_BD, mean_BL)
