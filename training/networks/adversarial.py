"""BigBiGAN's networks: encoder and generator, and the discriminator of pairs (image, latent).

The discriminator gives three scores, and every layer of it is under spectral norm:

    s_x = a(F(x))        s_z = b(H(z))        s_xz = c(J(F(x), H(z)))

The encoder is a backbone with an MLP on top that gives the posterior. What it learned of images is the backbone's
output, in front of the MLP, as in the paper.

Sources: Donahue and Simonyan, https://arxiv.org/abs/1907.02544, sections 2 and 3; spectral norm: Miyato et al.,
https://arxiv.org/abs/1802.05957.

Shape legend: B rows, C channels, H height, W width, L latent.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.backbones import build_backbone
from training.networks.conv import ConvDecoder, ImageSize, halvings
from training.ranks import among_all, mine

SLOPE = 0.2  # of LeakyReLU below 0: Radford et al., https://arxiv.org/abs/1511.06434

SMALLEST_LOGIT = -30.0  # of a scale: exp of what is far below would be infinite


class Scores(NamedTuple):
    """float [B] each: higher for what looks like an image of the data with its encoding.

    Attributes:
        image: s_x, sees x alone.
        latent: s_z, sees z alone.
        joint: s_xz, sees whether they belong together.
    """

    image: Tensor
    latent: Tensor
    joint: Tensor


class Bounded(nn.Module):
    """A layer whose weight matrix has the spectral norm `gain`, by one power iteration a training step.

    The matrix of a convolution is its kernel as [out, in * height * width], as in Miyato et al.
    """

    def __init__(self, layer: nn.Module, gain: float) -> None:
        super().__init__()
        self.layer = spectral_norm(layer)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """The layer, `gain` times its normalised self."""
        normalised: Tensor = self.layer(x)
        return self.gain * normalised


class Discriminator(nn.Module):
    """F is a small convolutional network, H and J have two hidden layers each.

    Where it is of pairs alone (`unary` is false) s_x and s_z are 0.
    """

    def __init__(
        self,
        channels: int,
        image_size: ImageSize,
        width: int,
        hidden_dim: int,
        latent_dim: int,
        gain: float,
        unary: bool = True,
    ) -> None:
        super().__init__()
        self.unary = unary
        sizes = halvings(image_size)
        widths = [channels, *(width * 2**stage for stage in range(len(sizes) - 1))]
        convolutions: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolutions += [Bounded(nn.Conv2d(before, after, 4, 2, 1), gain), nn.LeakyReLU(SLOPE)]

        def dense(*dims: int) -> list[nn.Module]:
            pairs = [(Bounded(nn.Linear(a, b), gain), nn.LeakyReLU(SLOPE)) for a, b in pairwise(dims)]
            return [layer for pair in pairs for layer in pair]

        num_features = widths[-1] * math.prod(sizes[-1])
        self.features = nn.Sequential(*convolutions, nn.Flatten(), *dense(num_features, hidden_dim))
        self.latent_features = nn.Sequential(*dense(latent_dim, hidden_dim, hidden_dim))
        self.joint_features = nn.Sequential(*dense(2 * hidden_dim, 2 * hidden_dim, 2 * hidden_dim))
        if unary:
            self.image_head = Bounded(nn.Linear(hidden_dim, 1), gain)
            self.latent_head = Bounded(nn.Linear(hidden_dim, 1), gain)
        self.joint_head = Bounded(nn.Linear(2 * hidden_dim, 1), gain)

    def forward(self, x_BCHW: Tensor, z_BL: Tensor) -> Scores:
        """Scores of pairs; pixels from 0 to 1."""
        f = self.features(2 * x_BCHW - 1)
        h = self.latent_features(z_BL)
        joint = self.joint_features(torch.cat([f, h], dim=1))
        s_xz = self.joint_head(joint).squeeze(1)
        if not self.unary:
            return Scores(torch.zeros_like(s_xz), torch.zeros_like(s_xz), s_xz)
        return Scores(self.image_head(f).squeeze(1), self.latent_head(h).squeeze(1), s_xz)


class EncoderGenerator(nn.Module):
    """E and G: trained against the discriminator, and averaged to be served."""

    def __init__(
        self,
        channels: int,
        image_size: ImageSize,
        width: int,
        backbone: str,
        backbone_width: int | None,
        hidden_dim: int,
        latent_dim: int,
        largest_scale: float,
    ) -> None:
        super().__init__()
        self.largest_scale = largest_scale
        self.encoder, features = build_backbone(backbone, channels, image_size, backbone_width)
        self.posterior_head = nn.Sequential(
            nn.Linear(features, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 2 * latent_dim),
        )
        self.generator = ConvDecoder(channels, image_size, width, hidden_dim, latent_dim)

    def posterior(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Backbone's output [B, D], mean [B, L] and standard deviation [B, L] of E(x); pixels from 0 to 1."""
        h_BD = self.encoder(2 * x_BCHW - 1)
        mean_BL, raw_BL = self.posterior_head(h_BD).chunk(2, dim=1)
        # sigmoid(raw) written out: ONNX Runtime's is within 1e-8, which is much of a scale of 1e-7, and detectors take
        # its logarithm
        return h_BD, mean_BL, self.largest_scale / (1 + (-raw_BL.clamp_min(SMALLEST_LOGIT)).exp())

    def sample(self, x_BCHW: Tensor) -> Tensor:
        """A latent drawn from E(x), [B, L]."""
        _, mean_BL, scale_BL = self.posterior(x_BCHW)
        return mean_BL + scale_BL * mine(torch.randn_like(among_all(mean_BL)))

    def generate(self, z_BL: Tensor) -> Tensor:
        """G(z), float [B, C, H, W], 0 to 1."""
        logits_BCHW: Tensor = self.generator(z_BL)
        return logits_BCHW.sigmoid()
