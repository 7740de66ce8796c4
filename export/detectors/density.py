"""The density of the embedding, log p(z), by a Gaussian mixture.

An encoder trained to tell items apart puts in-distribution rows in few directions; a density fitted afterwards says
how typical a row's place is. The number of components is the one with the lowest BIC on the training rows; no
out-of-distribution row is used.

Source: the two steps, a contrastive embedding and then a density, are those of Winkens et al., Contrastive training for
improved out-of-distribution detection, https://arxiv.org/abs/2007.05566.

Shape legend: B rows, N training rows, P directions, L of them, K components of the mixture, M = K L.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from export.detectors.detector import float32
from export.detectors.directions import Directions, OnDirections, Placed

NUM_COMPONENTS = (1, 2, 5, 10, 20)
LARGEST_L = 32
"""Full covariances of more would need more rows than small sets have."""
FIT_ROWS = 10_000
REGULARISATION = 1e-3  # of the variances, which are 1: keeps components off single rows


class Density(OnDirections):
    """-log p(z) along the leading directions, each in units of its deviation."""

    name: ClassVar[str] = "density"
    method: ClassVar[str] = "-log p(z) of the embedding by a Gaussian mixture on its whitened principal components"
    mean_L: Tensor
    deviation_L: Tensor
    centres_KL: Tensor
    cholesky_LM: Tensor
    log_weight_K: Tensor

    def __init__(
        self, directions: Directions, mean_L: NDArray[Any], deviation_L: NDArray[Any], mixture: GaussianMixture
    ) -> None:
        super().__init__(directions)
        # log w_k + log |det of the precision's Cholesky factor| - L / 2 log 2 pi
        log_det_K = np.log(np.diagonal(mixture.precisions_cholesky_, axis1=1, axis2=2)).sum(axis=1)
        constant = 0.5 * len(mean_L) * math.log(2 * math.pi)
        buffers = {
            "mean_L": mean_L,
            "deviation_L": deviation_L,
            "centres_KL": np.einsum("kl,klm->km", mixture.means_, mixture.precisions_cholesky_),
            "cholesky_LM": np.concatenate(list(mixture.precisions_cholesky_), axis=1),
            "log_weight_K": np.log(mixture.weights_) + log_det_K - constant,
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(float32(array)))

    @classmethod
    def fit_placed(cls, directions: Directions, train: Placed) -> Self:
        """The mixture with the lowest BIC."""
        y_NP = train.y_BP[:FIT_ROWS].numpy()
        y_NL = y_NP[:, : min(LARGEST_L, max(1, len(y_NP) // 4))]
        mean_L, variance_L = y_NL.mean(axis=0), y_NL.var(axis=0, ddof=min(1, len(y_NL) - 1))
        kept = variance_L > 1e-6 * variance_L[0]  # a dead dimension has none to divide by
        kept[0] = True  # one there must be, and where all rows are alike any will do
        num = int(kept.argmin()) or len(kept)  # up to the first that is not: they are in descending order
        deviation_L = np.sqrt(np.maximum(variance_L[:num], directions.smallest**2))
        z_NL = (y_NL[:, :num] - mean_L[:num]) / deviation_L
        narrowest = max(REGULARISATION, float(directions.smallest**2 / np.square(deviation_L).min()))
        mixtures = [_mixture(z_NL, num, narrowest) for num in NUM_COMPONENTS if num * 50 <= len(z_NL) or num == 1]
        return cls(directions, mean_L[:num], deviation_L, min(mixtures, key=lambda mixture: float(mixture.bic(z_NL))))

    def of_placed(self, rows: Placed) -> Tensor:
        """See `OnDirections`."""
        z_BL = (rows.y_BP[:, : len(self.mean_L)] - self.mean_L) / self.deviation_L
        # one product with rows as its rows: an einsum would make them its columns, and their sums depend on the batch
        standard_BKL = (z_BL @ self.cholesky_LM).view(-1, *self.centres_KL.shape) - self.centres_KL
        exponent_BK = self.log_weight_K - 0.5 * standard_BKL.square().sum(dim=2)
        # -log sum_k exp(log w_k + log N(z; mu_k, Sigma_k)), in float64: see `fusion`
        return -torch.logsumexp(exponent_BK.double(), dim=1).float()


def _mixture(z_NL: NDArray[np.float64], num_components: int, narrowest: float) -> GaussianMixture:
    mixture = GaussianMixture(num_components, reg_covar=narrowest, max_iter=100, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # BIC compares what was reached
        return mixture.fit(z_NL)
