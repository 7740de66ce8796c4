"""95 % intervals of differences between two encoders on the same rows.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentiles); DeLong, DeLong and
Clarke-Pearson, Biometrics 44 (1988) 837 (areas under correlated ROC curves).

Shape legend: R repetitions (draws of labels), N rows, M rows of an out-of-distribution set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from training.evaluation.intervals import CONFIDENCE, Interval

NUM_RESAMPLES = 2000
AT_ONCE = 100
"""Resamples drawn together: of 10,000 rows 8 MB of places."""

Values = NDArray[np.floating]


def paired_bootstrap(differences_RN: Values, seed: int = 0) -> Interval:
    """Of the mean of differences, each row's own between the two; repetitions are resampled, too, if there are some."""
    differences_RN = np.atleast_2d(differences_RN)
    num_repetitions, num_rows = differences_RN.shape
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(NUM_RESAMPLES // AT_ONCE):
        rows = rng.integers(0, num_rows, (AT_ONCE, num_rows))
        repetitions = rng.integers(0, num_repetitions, (AT_ONCE, num_repetitions))
        of_repetitions = np.stack([of_one_N[rows].mean(axis=1) for of_one_N in differences_RN], axis=1)
        means.append(np.take_along_axis(of_repetitions, repetitions, axis=1).mean(axis=1))
    edges = 100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), edges)
    return float(low), float(high)


def auroc_difference(id_2N: Sequence[Values], ood_2M: Sequence[Values]) -> Interval:
    """Of AUROC of the first less that of the second, whose scores are of the same rows.

    Args:
        id_2N: scores of in-distribution rows, larger ones further out; the two differ in scale as they like.
        ood_2M: of a set.
    """
    areas, of_id, of_ood = zip(
        *(_placements(id_N, ood_M) for id_N, ood_M in zip(id_2N, ood_2M, strict=True)), strict=True
    )
    difference = areas[0] - areas[1]
    variance = sum(
        float(np.var(first - second, ddof=1)) / len(first) if len(first) > 1 else 0.0
        for first, second in (of_id, of_ood)
    )
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return difference - reach, difference + reach


def _placements(id_N: Values, ood_M: Values) -> tuple[float, Values, Values]:
    """The area, and for each row the share of the other side's that stand on the right side of it, ties a half."""
    id_N, ood_M = (np.nan_to_num(scores, nan=np.inf) for scores in (id_N, ood_M))
    num_id, num_ood = len(id_N), len(ood_M)
    among_all = rankdata(np.concatenate([id_N, ood_M]))
    of_id = 1 - (among_all[:num_id] - rankdata(id_N)) / num_ood
    of_ood = (among_all[num_id:] - rankdata(ood_M)) / num_id
    return float(of_ood.mean()), of_id, of_ood
