"""Does the embedding change lawfully when the image does?

For a change g of the image (shift, rotation, ...) a linear map M_g is fitted on pairs (f(x), f(gx)) of training
rows. Equivariance is how much of f(gx) the map foretells on held-out rows; invariance is how much of f(gx) the
unchanged f(x) foretells. Both are shares of variance (R^2), so an embedding that maps everything to one point gets
0, not 1: it explains nothing because there is nothing to explain.

Shape legend: N rows, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RIDGE = 1e-3  # of the mean variance of a feature: enough for features that depend on each other
CONSTANT = 1e-10  # variance over mean square below which features are rounding noise around one point


def equivariance(
    train_ND: NDArray[Any], train_moved_ND: NDArray[Any], test_ND: NDArray[Any], test_moved_ND: NDArray[Any]
) -> float:
    """R^2 of M_g f(x) ~ f(gx) on held-out rows, at most 1; M_g is affine, ridge-fitted on training rows."""
    x_ND, y_ND = train_ND.astype(np.float64), train_moved_ND.astype(np.float64)
    mean_x, mean_y = x_ND.mean(axis=0), y_ND.mean(axis=0)
    if _is_constant(x_ND):
        return r_squared(test_moved_ND, np.broadcast_to(mean_y, test_moved_ND.shape))
    # M = (X'X + N ridge I)^-1 X'Y with X and Y centred
    gram_DD = (x_ND - mean_x).T @ (x_ND - mean_x)
    gram_DD[np.diag_indices_from(gram_DD)] += RIDGE * gram_DD.trace() / len(gram_DD)
    map_DD = np.linalg.solve(gram_DD, (x_ND - mean_x).T @ (y_ND - mean_y))
    return r_squared(test_moved_ND, (test_ND - mean_x) @ map_DD + mean_y)


def invariance(test_ND: NDArray[Any], test_moved_ND: NDArray[Any]) -> float:
    """R^2 of f(x) ~ f(gx) without any map, at most 1, negative where f(x) is worse than the mean."""
    return r_squared(test_moved_ND, test_ND)


def r_squared(target_ND: NDArray[Any], predicted_ND: NDArray[Any]) -> float:
    """Share of the target's variance, over all features, that is predicted; 0 if the target is constant."""
    target_ND = target_ND.astype(np.float64)
    if _is_constant(target_ND):
        return 0.0
    unexplained = np.square(target_ND - predicted_ND).sum()
    return float(1 - unexplained / np.square(target_ND - target_ND.mean(axis=0)).sum())


def _is_constant(features_ND: NDArray[np.float64]) -> bool:
    return bool(features_ND.var(axis=0).sum() <= CONSTANT * np.square(features_ND).mean(axis=0).sum())
