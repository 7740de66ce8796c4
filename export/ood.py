"""Out-of-distribution detectors: fitted on training rows, exported as a graph, calibrated on rows nobody saw.

The raw ELBO is a bad score: smooth strange images often get a better one than the training images. What works is to
ask whether the *combination* of a few statistics is usual. For a model that reconstructs they are

    s(x) = log [ reconstruction error, |mu|, |sigma|, KL(q(z|x) || N(0, I)) ]

and the score is the Mahalanobis distance of s(x) to the training rows, sqrt((s - m)^T S^-1 (s - m)). Logarithms,
because all four are positive and skewed to the right while the distance assumes ellipses.

Sources: Nalisnick et al., https://arxiv.org/abs/1810.09136 (the failure of likelihoods) and
https://arxiv.org/abs/1906.02994 (typicality); Ledoit and Wolf, J. Multivariate Analysis 88 (2004) 365 (shrinkage);
Vovk et al., Algorithmic Learning in a Random World (2005), eq. 2.20 (the conformal p-value).

Shape legend: B rows, H height, W width, C channels, L latent, S statistics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from latentserve.bundle import Detector, sha256_of_scores
from latentserve.inputs import INPUT

STATISTICS_INPUTS = (INPUT, "reconstruction", "latent", "latent_scale")
STATISTICS_NAME = "statistics_mahalanobis"
STATISTICS_METHOD = "Mahalanobis distance of log [reconstruction error, |mu|, |sigma|, KL] to the training rows"
TINY = 1e-8
"""Keeps the logarithm finite; the square of a ten-thousandth of the grey scale."""


def statistics(x_BHWC: Tensor, reconstruction_BHWC: Tensor, mu_BL: Tensor, sigma_BL: Tensor) -> Tensor:
    """The statistics vector s(x), float [B, 4]."""
    error_BHWC = (x_BHWC.to(torch.float32) / 255 - reconstruction_BHWC).square()
    kl_BL = 0.5 * (mu_BL.square() + sigma_BL.square() - 2 * (sigma_BL + TINY).log() - 1)
    values = [
        error_BHWC.flatten(1).mean(dim=1),
        mu_BL.square().sum(dim=1).sqrt(),
        sigma_BL.square().sum(dim=1).sqrt(),
        kl_BL.sum(dim=1).clamp_min(0),
    ]
    return (torch.stack(values, dim=1) + TINY).log()


class StatisticsMahalanobis(nn.Module):
    """input, reconstruction, latent, latent_scale -> scores [B, 1]."""

    mean_S: Tensor
    whiten_SS: Tensor

    def __init__(self, mean_S: NDArray[Any], whiten_SS: NDArray[Any]) -> None:
        super().__init__()
        self.register_buffer("mean_S", torch.from_numpy(np.asarray(mean_S, np.float32)))
        self.register_buffer("whiten_SS", torch.from_numpy(np.asarray(whiten_SS, np.float32)))

    def forward(self, x_BHWC: Tensor, reconstruction_BHWC: Tensor, mu_BL: Tensor, sigma_BL: Tensor) -> Tensor:
        """Larger is stranger."""
        s_BS = statistics(x_BHWC, reconstruction_BHWC, mu_BL, sigma_BL)
        return ((s_BS - self.mean_S) @ self.whiten_SS).square().sum(dim=1, keepdim=True).sqrt()

    @classmethod
    def fit(cls, rows_NHWC: NDArray[np.uint8], tensors: dict[str, NDArray[np.float32]]) -> StatisticsMahalanobis:
        """Fits mean and shrunk covariance.

        Args:
            rows_NHWC: training rows.
            tensors: what encoder and decoder gave for them.
        """
        inputs = [rows_NHWC, *(tensors[name] for name in STATISTICS_INPUTS[1:])]
        s_NS = statistics(*(torch.from_numpy(array) for array in inputs)).numpy().astype(np.float64)
        mean_S, scale_S = s_NS.mean(axis=0), s_NS.std(axis=0) + TINY
        # Standardised first: the shrinkage target is a multiple of the identity, so units would matter.
        precision_SS = LedoitWolf().fit((s_NS - mean_S) / scale_S).precision_
        return cls(mean_S, np.linalg.cholesky(precision_SS) / scale_S[:, None])


def calibrate(name: str, method: str, scores_N: NDArray[np.float32]) -> tuple[Detector, NDArray[np.float32]]:
    """The manifest's entry of a detector and its sorted calibration scores.

    Raises:
        ValueError: a score that is not finite: no p-value could be relied on.
    """
    if not np.isfinite(scores_N).all():
        raise ValueError(f"{name}: {int((~np.isfinite(scores_N)).sum())} calibration scores are not finite")
    ordered = np.sort(scores_N.astype(np.float32))
    return Detector(name, method, len(ordered), sha256_of_scores(ordered)), ordered
