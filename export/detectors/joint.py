"""BigBiGAN's own score: does its discriminator take (x, E(x)) for a pair of the data?

Source: Zenati et al., Adversarially learned anomaly detection, https://arxiv.org/abs/1812.02288 (scores of the joint
discriminator of a bidirectional GAN).

Shape legend: B rows, H height, W width, C channels, L latent.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from latentserve.inputs import INPUT
from training.preprocessing import image_from_uint8


class JointDiscriminator(nn.Module):
    """-s_xz(x, mean of E(x)). Nothing is fitted: training did that."""

    name: ClassVar[str] = "joint_discriminator"
    method: ClassVar[str] = "- score of the pair (x, mean of E(x)) by BigBiGAN's joint discriminator"
    inputs: ClassVar[tuple[str, ...]] = (INPUT, "latent")

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x_BHWC: Tensor, latent_BL: Tensor) -> Tensor:
        """Scores [B]."""
        joint_B: Tensor = self.discriminator(image_from_uint8(x_BHWC), latent_BL).joint
        return -joint_B
