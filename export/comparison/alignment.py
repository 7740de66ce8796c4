"""How alike two embeddings of the same rows are, whatever their dimensions mean.

Sources: Kornblith et al., Similarity of Neural Network Representations Revisited, https://arxiv.org/abs/1905.00414
(linear CKA); Song et al., Feature Selection via Dependence Maximization, J. Machine Learning Research 13 (2012) 1393,
equation 5 (the unbiased HSIC), and Nguyen, Raghu and Kornblith, https://arxiv.org/abs/2010.15327 (CKA made of it).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.probes import unit_rows

Features = NDArray[np.floating]

NUM_NEIGHBOURS = 10
FEWEST_ROWS = 4
"""Of the debiased CKA."""
AT_ONCE = 500


def linear_cka(x_ND: Features, y_NE: Features) -> float:
    """1: one is a rotated and scaled copy of the other; 0: nothing in common. Few rows of many features raise it.

    Not a number where one of them is the same for all rows.
    """
    x_ND, y_NE = (features - features.mean(axis=0) for features in _doubles(x_ND, y_NE))
    norms = np.linalg.norm(x_ND.T @ x_ND) * np.linalg.norm(y_NE.T @ y_NE)
    return float(np.linalg.norm(y_NE.T @ x_ND) ** 2 / norms) if norms > 0 else float("nan")


def debiased_cka(x_ND: Features, y_NE: Features) -> float:
    """The same, near 0 for what has nothing in common however few the rows are; may lie a little below 0.

    Not a number of fewer than `FEWEST_ROWS` rows, or where one of them is the same for all rows.
    """
    if len(x_ND) < FEWEST_ROWS:
        return float("nan")
    x_ND, y_NE = (features - features.mean(axis=0) for features in _doubles(x_ND, y_NE))
    of_x, of_y = _hsic(x_ND, x_ND), _hsic(y_NE, y_NE)
    return float(_hsic(x_ND, y_NE) / np.sqrt(of_x * of_y)) if min(of_x, of_y) > 0 else float("nan")


def _hsic(x_ND: Features, y_NE: Features) -> float:
    """Unbiased, of the linear kernels K = x x' and L = y y', whose [N, N] values are never held."""
    num = len(x_ND)
    of_x, of_y = (np.einsum("nd,nd->n", features, features) for features in (x_ND, y_NE))
    rows_x, rows_y = (features @ features.sum(axis=0) - diagonal for features, diagonal in ((x_ND, of_x), (y_NE, of_y)))
    trace = np.linalg.norm(y_NE.T @ x_ND) ** 2 - of_x @ of_y
    sums = rows_x.sum() * rows_y.sum() / ((num - 1) * (num - 2))
    return float((trace + sums - 2 / (num - 2) * (rows_x @ rows_y)) / (num * (num - 3)))


def neighbours_kept(x_ND: Features, y_NE: Features, num_neighbours: int = NUM_NEIGHBOURS) -> NDArray[np.float64]:
    """Of each row's so many nearest other rows by cosine, the share that is nearest in both, [N]; 1: all of them.

    By chance it is `num_neighbours` of N - 1.
    """
    x, y = unit_rows(x_ND), unit_rows(y_NE)
    kept = [
        (_nearest(x, start, num_neighbours) & _nearest(y, start, num_neighbours)).sum(axis=1)
        for start in range(0, len(x), AT_ONCE)
    ]
    return np.concatenate(kept) / num_neighbours


def _nearest(unit_ND: Features, start: int, num_neighbours: int) -> NDArray[np.bool_]:
    """Which rows are nearest to each of `AT_ONCE` rows, themselves left out; of equally near ones the first."""
    similarity = unit_ND[start : start + AT_ONCE] @ unit_ND.T
    places = np.arange(len(similarity))
    similarity[places, start + places] = -np.inf
    near = np.zeros(similarity.shape, np.bool_)
    np.put_along_axis(near, np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbours], True, axis=1)
    return near


def _doubles(x_ND: Features, y_NE: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(x_ND) != len(y_NE):
        raise ValueError(f"y_NE: got {len(y_NE)} rows, expected {len(x_ND)}")
    return x_ND.astype(np.float64), y_NE.astype(np.float64)
