"""Does the embedding change predictably when the image does?

For a change g of the image (shift, rotation, ...) a linear map M_g is fitted on pairs (f(x), f(gx)) of training
rows. Equivariance is how much of f(gx) the map foretells on held-out rows; invariance is how much of f(gx) the
unchanged f(x) foretells. Both are shares of variance (R^2), so an embedding that maps everything to one point gets
0, not 1: it explains nothing because there is nothing to explain.

Shape legend: N rows, D features.
"""

from __future__ import annotations

import numpy as np

from training.evaluation.probes import Features

RIDGE = 1e-3  # of the mean variance of a feature: enough for features that depend on each other
CONSTANT = 1e-10  # variance over mean square below which features are rounding noise around one point


def equivariance(train_ND: Features, train_moved_ND: Features, test_ND: Features, test_moved_ND: Features) -> float:
    """R^2 of M_g f(x) ~ f(gx) on held-out rows, at most 1; M_g is affine, ridge-fitted on training rows."""
    x_ND, y_ND = train_ND.astype(np.float64), train_moved_ND.astype(np.float64)
    mean_x, mean_y = x_ND.mean(axis=0), y_ND.mean(axis=0)
    if _is_constant(x_ND):
        return r_squared(test_moved_ND, np.broadcast_to(mean_y, test_moved_ND.shape))
    foretold_ND = _ridge(x_ND - mean_x, y_ND - mean_y, test_ND - mean_x) + mean_y
    return r_squared(test_moved_ND, foretold_ND)


def _ridge(x_ND: Features, y_ND: Features, test_ND: Features) -> Features:
    """Predicts y of test rows by a ridge regression of y on x; x and y are centred."""
    strength = RIDGE * np.square(x_ND).sum() / x_ND.shape[1]
    if x_ND.shape[1] <= len(x_ND):
        # M = (X'X + a I)^-1 X'Y
        gram_DD = x_ND.T @ x_ND + strength * np.eye(x_ND.shape[1])
        map_DD: Features = np.linalg.solve(gram_DD, x_ND.T @ y_ND)
        return np.asarray(test_ND @ map_DD)
    # more features than rows, the pixels of a photo: the same map as X'(XX' + a I)^-1 Y
    gram_NN = x_ND @ x_ND.T + strength * np.eye(len(x_ND))
    foretold_ND: Features = (test_ND @ x_ND.T) @ np.linalg.solve(gram_NN, y_ND)
    return foretold_ND


def invariance(test_ND: Features, test_moved_ND: Features) -> float:
    """R^2 of f(x) ~ f(gx) without any map, at most 1, negative where f(x) is worse than the mean."""
    return r_squared(test_moved_ND, test_ND)


def r_squared(target_ND: Features, predicted_ND: Features) -> float:
    """Share of the target's variance, over all features, that is predicted; 0 if the target is constant."""
    target_ND = target_ND.astype(np.float64)
    if _is_constant(target_ND):
        return 0.0
    unexplained = np.square(target_ND - predicted_ND).sum()
    return float(1 - unexplained / np.square(target_ND - target_ND.mean(axis=0)).sum())


def _is_constant(features_ND: Features) -> bool:
    return bool(features_ND.var(axis=0).sum() <= CONSTANT * np.square(features_ND).mean(axis=0).sum())
