"""What a model that reconstructs makes of a row: four statistics, and whether their combination is typical.

The raw ELBO is a bad score: smooth out-of-distribution images often get a better one than the training images. What
works is to ask whether the *combination* of a few statistics is typical. For a model that reconstructs they are

    s(x) = log [ reconstruction error, |mu|, |sigma|, KL(q(z|x) || N(0, I)) ]

and the score is the Mahalanobis distance of s(x) to the training rows, sqrt((s - m)^T S^-1 (s - m)). Logarithms,
because all four are positive and skewed to the right while the distance assumes ellipses.

Sources: Nalisnick et al., https://arxiv.org/abs/1810.09136 (the failure of likelihoods) and
https://arxiv.org/abs/1906.02994 (typicality); Ledoit and Wolf, J. Multivariate Analysis 88 (2004) 365 (shrinkage).

Shape legend: B rows, H height, W width, C channels, P = H W C, L latent, S statistics.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from export.detectors.detector import SMALLEST_DEVIATION, TINY
from export.detectors.distance import Distance
from latentserve.inputs import INPUT

SMALLEST_ERROR = 1e-8
"""Keeps the logarithm finite; the square of a ten-thousandth of the grey scale."""


def statistics(x_BHWC: Tensor, reconstruction_BHWC: Tensor, mu_BL: Tensor, sigma_BL: Tensor) -> Tensor:
    """The statistics vector s(x), float [B, 4]."""
    # flat: where the last axis is of one channel, ONNX Runtime takes a scalar number by number
    error_BP = (x_BHWC.flatten(1).to(torch.float32) / 255 - reconstruction_BHWC.flatten(1)).square()
    kl_BL = 0.5 * (mu_BL.square() + sigma_BL.square() - 2 * sigma_BL.clamp_min(TINY).log() - 1)
    # a sum of L numbers that are differences of numbers of size 1: of a posterior that is the prior it is rounding
    smallest_kl = SMALLEST_DEVIATION * mu_BL.shape[1]
    values = [
        error_BP.mean(dim=1),
        mu_BL.square().sum(dim=1).sqrt(),
        sigma_BL.square().sum(dim=1).sqrt(),
        kl_BL.sum(dim=1).clamp_min(smallest_kl),
    ]
    # in float64: see `fusion`; clamp_min, not + TINY: see `magnitude`
    return torch.stack(values, dim=1).clamp_min(SMALLEST_ERROR).double().log().float()


class StatisticsMahalanobis(Distance):
    """The distance of s(x) to the mean of the training rows."""

    name: ClassVar[str] = "statistics_mahalanobis"
    method: ClassVar[str] = "Mahalanobis distance of log [reconstruction error, |mu|, |sigma|, KL] to the training rows"
    inputs: ClassVar[tuple[str, ...]] = (INPUT, "reconstruction", "latent", "latent_scale")
    own_units: ClassVar[bool] = True

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """See `Distance`."""
        return statistics(*tensors)
