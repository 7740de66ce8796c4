"""The density of the embedding, log p(z), by a Gaussian mixture.

An encoder trained to tell items apart puts in-distribution rows in few directions; a density fitted afterwards says
how typical a row's place is. The number of components is the one with the lowest BIC on the training rows; no
out-of-distribution row is used.

Source: the two steps, a contrastive embedding and then a density, are those of Winkens et al., Contrastive training for
improved out-of-distribution detection, https://arxiv.org/abs/2007.05566.

Shape legend: B rows, N training rows, D embedding, L principal components, K components of the mixture, M = K L.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from export.detectors.detector import SMALLEST_DEVIATION, TINY, Arrays, float32, shortest_of
from export.detectors.mahalanobis import unit

NUM_COMPONENTS = (1, 2, 5, 10, 20)
LARGEST_L = 32
"""Full covariances of more would need more rows than small sets have."""
FIT_ROWS = 10_000
REGULARISATION = 1e-3  # of the variances, which are 1: keeps components off single rows


class Density(nn.Module):
    """-log p(z) of the first principal components, whitened."""

    name: ClassVar[str] = "density"
    method: ClassVar[str] = "-log p(z) of the embedding by a Gaussian mixture on its whitened principal components"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    mean_D: Tensor
    whiten_DL: Tensor
    centres_KL: Tensor
    cholesky_LM: Tensor
    log_weight_K: Tensor

    def __init__(
        self, mean_D: NDArray[Any], whiten_DL: NDArray[Any], mixture: GaussianMixture, shortest: float
    ) -> None:
        super().__init__()
        self.shortest = shortest
        # log w_k + log |det of the precision's Cholesky factor| - L / 2 log 2 pi
        log_det_K = np.log(np.diagonal(mixture.precisions_cholesky_, axis1=1, axis2=2)).sum(axis=1)
        constant = 0.5 * whiten_DL.shape[1] * math.log(2 * math.pi)
        buffers = {
            "mean_D": mean_D,
            "whiten_DL": whiten_DL,
            "centres_KL": np.einsum("kl,klm->km", mixture.means_, mixture.precisions_cholesky_),
            "cholesky_LM": np.concatenate(list(mixture.precisions_cholesky_), axis=1),
            "log_weight_K": np.log(mixture.weights_) + log_det_K - constant,
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(float32(array)))

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Whitening by PCA, then the mixture with the lowest BIC."""
        shortest = shortest_of(cls.inputs, train)
        x_ND = unit(torch.from_numpy(train["embedding"][:FIT_ROWS]).double(), shortest).numpy()
        pca = PCA(min(LARGEST_L, x_ND.shape[1], len(x_ND) // 4), svd_solver="full", whiten=False)
        with np.errstate(invalid="ignore"):  # shares of a variance that is none: rows that are all alike
            pca.fit(x_ND)
        smallest = SMALLEST_DEVIATION**2 * np.square(x_ND).mean() + TINY**2  # variance; see `detector`
        variance_L = np.maximum(pca.explained_variance_, smallest)
        kept = pca.explained_variance_ > 1e-6 * pca.explained_variance_[0]  # a dead dimension has none to divide by
        kept[0] = True  # one there must be, and where all rows are alike any will do
        whiten_DL = (pca.components_[kept] / np.sqrt(variance_L[kept])[:, None]).T
        z_NL = (x_ND - pca.mean_) @ whiten_DL
        narrowest = max(REGULARISATION, float(smallest / variance_L[kept].min()))
        mixtures = [_mixture(z_NL, num, narrowest) for num in NUM_COMPONENTS if num * 50 <= len(z_NL) or num == 1]
        return cls(pca.mean_, whiten_DL, min(mixtures, key=lambda mixture: float(mixture.bic(z_NL))), shortest)

    @staticmethod
    def features(embedding_BD: Tensor, shortest: float) -> Tensor:
        """See `Detector`."""
        return unit(embedding_BD, shortest)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Scores [B]."""
        return self.of(self.features(embedding_BD, self.shortest))

    def of(self, x_BD: Tensor) -> Tensor:
        """Scores [B] of features."""
        z_BL = (x_BD - self.mean_D) @ self.whiten_DL
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
