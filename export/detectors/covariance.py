"""The covariance of training rows, shrunk, and never smaller than what rounding makes of their numbers.

Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
Analysis 88 (2004) 365.

Shape legend: B and N rows, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.detectors.detector import SMALLEST_DEVIATION, TINY, mean_square

ROWS_AT_ONCE = 2048
"""All of them as float64, centred and squared, are several copies of a large set."""


def covariance(x_ND: NDArray[Any], smallest_D: NDArray[Any]) -> NDArray[np.float64]:
    """The covariance [D, D] of rows.

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
    covariance_DD: NDArray[np.float64] = (shrunk_DD + np.diag(missing_D)) * unit_of_x**2
    return covariance_DD


def whitening(x_ND: NDArray[Any], smallest_D: NDArray[Any]) -> NDArray[np.float64]:
    """W [D, D] such that |(x - y) W| is the Mahalanobis distance; arguments as for `covariance`."""
    whiten_DD: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(covariance(x_ND, smallest_D)))
    return whiten_DD


def shrunk_covariance(parts: Iterable[NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    """Covariance [D, D] of rows of mean 0, some at a time, as a mix with the identity, and the identity's share.

    With S the covariance of N rows, mu its mean variance and |.| the Frobenius norm, the share is min(b, d) / d of

        d = |S - mu I|^2 / D        b = (mean_n |x_n|^4 - |S|^2) / (N D)
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
