"""Mahalanobis distances: of any features to those of the training rows, and of the embedding to their clusters.

Embeddings are scaled to unit length first: the length of an embedding says how much there is in an image, and its
variation would drown the rest (Mueller and Hein, Mahalanobis++, https://arxiv.org/abs/2505.18032).

Sources: Lee et al., https://arxiv.org/abs/1807.03888 (the distance as a score); Sehwag et al., SSD,
https://arxiv.org/abs/2103.12051 (k-means clusters in place of labels); Ledoit and Wolf, J. Multivariate Analysis 88
(2004) 365 (shrinkage). Left out: the relative distance of Ren et al., https://arxiv.org/abs/2106.09022, which takes the
distance to all rows away again: with clusters in place of labels it gave far rows low scores (docs/adr/0009).

Shape legend: B rows, N training rows, D embedding, F features, K clusters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from export.detectors.detector import SMALLEST_DEVIATION, TINY, Arrays, features_of, float32, mean_square, shortest_of

NUM_CLUSTERS = 10  # Sehwag et al. find 1 to 10 alike; more needs more rows than small sets have
SMALLEST_SCALE = 1e-6
ROWS_AT_ONCE = 2048
"""Of a covariance: all of them as float64, centred and squared, are several copies of a large set."""


def unit(embedding_BD: Tensor, shortest: float = TINY) -> Tensor:
    """Rows of length 1; what is shorter than `shortest` stays as much shorter, a row of zeros one of zeros.

    Written out: `F.normalize` expands the lengths to a shape that every call would have to work out.
    """
    length_B1: Tensor = torch.linalg.vector_norm(embedding_BD, dim=1, keepdim=True)
    return embedding_BD / length_B1.clamp_min(shortest)


def whitening(x_ND: NDArray[Any], smallest_D: NDArray[Any]) -> NDArray[np.float64]:
    """W [D, D] such that |(x - y) W| is the Mahalanobis distance, by the shrunk covariance of x.

    Shrunk towards a multiple of the identity, so that the dimensions of x must have one unit.

    Args:
        x_ND: the rows.
        smallest_D: deviation of each dimension. Rows that are all alike have none, and their covariance no inverse.
    """
    mean_D = x_ND.mean(axis=0, dtype=np.float64)
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(x_ND), ROWS_AT_ONCE)]
    squares = sum(float(np.square(x_ND[part] - mean_D).sum()) for part in parts)
    unit_of_x = max(np.sqrt(squares / x_ND.size) + TINY, smallest_D.min())
    shrunk_DD, shrinkage = shrunk_covariance((x_ND[part] - mean_D) / unit_of_x for part in parts)
    # shrinking gives each direction its share of the mean variance at least: mostly that is far more
    least = shrinkage * np.trace(shrunk_DD) / x_ND.shape[1]
    missing_D = np.maximum(0, np.square(smallest_D / unit_of_x) - least)
    precision_DD = np.linalg.inv(shrunk_DD + np.diag(missing_D))
    whiten_DD: NDArray[np.float64] = np.linalg.cholesky(precision_DD) / unit_of_x
    return whiten_DD


def shrunk_covariance(parts: Iterable[NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    """Covariance [D, D] of rows of mean 0, some at a time, as a mix with the identity, and the identity's share.

    With S the covariance of N rows, mu its mean variance and |.| the Frobenius norm, the share is min(b, d) / d of

        d = |S - mu I|^2 / D        b = (mean_n |x_n|^4 - |S|^2) / (N D)

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
    Analysis 88 (2004) 365.
    """
    num_rows, fourth, sum_DD = 0, 0.0, np.zeros((1, 1))
    for x_BD in parts:
        num_rows += len(x_BD)
        fourth += float(np.square(np.square(x_BD).sum(axis=1)).sum())
        sum_DD = sum_DD + x_BD.T @ x_BD
    covariance_DD = sum_DD / num_rows
    dim, norm = len(covariance_DD), float(np.square(covariance_DD).sum())
    mean = float(np.trace(covariance_DD)) / dim
    d, b = (norm - dim * mean**2) / dim, (fourth / num_rows - norm) / (num_rows * dim)
    share = min(b, d) / d if min(b, d) > 0 else 0.0
    return (1 - share) * covariance_DD + share * mean * np.eye(dim), share


def smallest_deviation(x_ND: NDArray[Any]) -> NDArray[np.float64]:
    """The smallest deviation [D] of dimensions that have one unit."""
    return np.full(x_ND.shape[1], SMALLEST_DEVIATION * math.sqrt(mean_square(x_ND)) + TINY)


class Distance(nn.Module):
    """The distance of a row's features to the mean of the training rows'; a subclass says which features.

    Attributes:
        own_units: whether features are logarithms, each divided by its standard deviation before shrinking.
        shortest: see `unit`.
    """

    inputs: ClassVar[tuple[str, ...]]
    own_units: ClassVar[bool] = False
    mean_F: Tensor
    whiten_FF: Tensor

    def __init__(self, mean_F: NDArray[Any], whiten_FF: NDArray[Any], shortest: float) -> None:
        super().__init__()
        self.shortest = shortest
        self.register_buffer("mean_F", torch.from_numpy(float32(mean_F)))
        self.register_buffer("whiten_FF", torch.from_numpy(float32(whiten_FF)))

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:
        """Float [B, F] of what `inputs` names."""
        raise NotImplementedError

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Mean and shrunk covariance of the training rows' features."""
        shortest = shortest_of(cls.inputs, train)
        x_NF = features_of(cls, train, shortest)
        if not cls.own_units:
            return cls(x_NF.mean(axis=0, dtype=np.float64), whitening(x_NF, smallest_deviation(x_NF)), shortest)
        x_NF = x_NF.astype(np.float64)
        # what rounding does to a number it adds to its logarithm, however small that is
        smallest_F = SMALLEST_DEVIATION * np.maximum(1, np.sqrt(np.square(x_NF).mean(axis=0)))
        scale_F = np.maximum(x_NF.std(axis=0) + SMALLEST_SCALE, smallest_F)
        return cls(x_NF.mean(axis=0), whitening(x_NF / scale_F, smallest_F / scale_F) / scale_F[:, None], shortest)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        return self.of(self.features(*tensors, shortest=self.shortest))

    def of(self, x_BF: Tensor) -> Tensor:
        """Scores [B] of features."""
        return ((x_BF - self.mean_F) @ self.whiten_FF).square().sum(dim=1).sqrt()


class Mahalanobis(Distance):
    """The distance of the embedding, as a direction, to the mean of the training rows."""

    name: ClassVar[str] = "mahalanobis"
    method: ClassVar[str] = "Mahalanobis distance of the embedding, of unit length, to the training rows"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:
        """See `Distance`."""
        (embedding_BD,) = tensors
        return unit(embedding_BD, shortest)


class ClusterMahalanobis(nn.Module):
    """The distance to the nearest cluster, by the covariance within clusters."""

    name: ClassVar[str] = "cluster_mahalanobis"
    method: ClassVar[str] = "Mahalanobis distance of the embedding, of unit length, to the nearest k-means cluster"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    centres_KD: Tensor
    whiten_DD: Tensor

    def __init__(self, centres_KD: NDArray[Any], whiten_DD: NDArray[Any], shortest: float) -> None:
        super().__init__()
        self.shortest = shortest
        self.register_buffer("whiten_DD", torch.from_numpy(float32(whiten_DD)))
        self.register_buffer("centres_KD", torch.from_numpy(float32(centres_KD @ whiten_DD)))

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Clusters, and the covariance of what is left of each row when its cluster's mean is taken away."""
        shortest = shortest_of(cls.inputs, train)
        x_ND = unit(torch.from_numpy(train["embedding"]).double(), shortest).numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer rows differ than clusters were asked for
            clusters = KMeans(min(NUM_CLUSTERS, len(x_ND) // 20 + 1), n_init=3, random_state=0).fit(x_ND)
        smallest_D = smallest_deviation(x_ND)
        for k, centre_D in enumerate(clusters.cluster_centers_):
            x_ND[clusters.labels_ == k] -= centre_D  # in place: what is left within clusters
        return cls(clusters.cluster_centers_, whitening(x_ND, smallest_D), shortest)

    @staticmethod
    def features(embedding_BD: Tensor, shortest: float) -> Tensor:
        """See `Detector`."""
        return unit(embedding_BD, shortest)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Scores [B]."""
        return self.of(self.features(embedding_BD, self.shortest))

    def of(self, x_BD: Tensor) -> Tensor:
        """Scores [B] of features."""
        x_BD = x_BD @ self.whiten_DD
        return (x_BD[:, None] - self.centres_KD).square().sum(dim=2).amin(dim=1).sqrt()
