"""Mahalanobis distances of the embedding: to the mean of the training rows, and to the nearest of their clusters.

Embeddings are scaled to unit length first: the length of an embedding says how much there is in an image, and its
variation would drown the rest (Mueller and Hein, Mahalanobis++, https://arxiv.org/abs/2505.18032). Along the leading
directions the covariance is what it is; all others together have one variance (`export.detectors.directions`).

Sources: Lee et al., https://arxiv.org/abs/1807.03888 (the distance as a score); Sehwag et al., SSD,
https://arxiv.org/abs/2103.12051 (k-means clusters in place of labels). Left out: the relative distance of Ren et al.,
https://arxiv.org/abs/2106.09022, which takes the distance to all rows away again: with clusters in place of labels it
gave far rows low scores (docs/adr/0009).

Shape legend: B rows, N training rows, P directions, K clusters.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from export.detectors.covariance import whitening
from export.detectors.detector import float32
from export.detectors.directions import Directions, OnDirections, Placed

NUM_CLUSTERS = 10  # Sehwag et al. find 1 to 10 alike; more needs more rows than small sets have


class Mahalanobis(OnDirections):
    """The distance of the embedding, as a direction, to the mean of the training rows."""

    name: ClassVar[str] = "mahalanobis"
    method: ClassVar[str] = "Mahalanobis distance of the embedding, of unit length, to the training rows"
    deviation_P: Tensor

    def __init__(self, directions: Directions) -> None:
        super().__init__(directions)
        self.outside_variance = directions.outside_variance
        self.register_buffer("deviation_P", torch.from_numpy(float32(np.sqrt(directions.variance_P))))

    @classmethod
    def fit_placed(cls, directions: Directions, train: Placed) -> Self:  # noqa: ARG003 (directions know all of it)
        """See `OnDirections`."""
        return cls(directions)

    def of_placed(self, rows: Placed) -> Tensor:
        """See `OnDirections`."""
        inside_B = (rows.y_BP / self.deviation_P).square().sum(dim=1)
        return (inside_B + rows.outside_B / self.outside_variance).sqrt()


class ClusterMahalanobis(OnDirections):
    """The distance to the nearest cluster, by the covariance within clusters."""

    name: ClassVar[str] = "cluster_mahalanobis"
    method: ClassVar[str] = "Mahalanobis distance of the embedding, of unit length, to the nearest k-means cluster"
    centres_KP: Tensor
    whiten_PP: Tensor

    def __init__(self, directions: Directions, centres_KP: NDArray[Any], whiten_PP: NDArray[Any]) -> None:
        super().__init__(directions)
        self.outside_variance = directions.outside_variance
        self.register_buffer("whiten_PP", torch.from_numpy(float32(whiten_PP)))
        self.register_buffer("centres_KP", torch.from_numpy(float32(centres_KP @ whiten_PP)))

    @classmethod
    def fit_placed(cls, directions: Directions, train: Placed) -> Self:
        """Clusters, and the covariance of what is left of each row when its cluster's mean is taken away."""
        y_NP = train.y_BP.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer rows differ than clusters were asked for
            clusters = KMeans(min(NUM_CLUSTERS, len(y_NP) // 20 + 1), n_init=3, random_state=0).fit(y_NP)
        centres_KP = clusters.cluster_centers_
        within_NP = y_NP - centres_KP[clusters.labels_]
        smallest_P = np.full(within_NP.shape[1], directions.smallest)
        return cls(directions, centres_KP, whitening(within_NP, smallest_P))

    def of_placed(self, rows: Placed) -> Tensor:
        """See `OnDirections`."""
        y_BP = rows.y_BP @ self.whiten_PP
        nearest_B = (y_BP[:, None] - self.centres_KP).square().sum(dim=2).amin(dim=1)
        return (nearest_B + rows.outside_B / self.outside_variance).sqrt()
