"""How well scores tell out-of-distribution (OOD) rows from in-distribution (ID) rows.

Conventions differ between papers, and the same scores lead to other figures: both are computed, each named.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Separation:
    """Figures of one score on one OOD set.

    Attributes:
        auroc: probability that an OOD row scores higher than an ID row, ties counting half; 0.5 is chance.
        aupr_ood: average precision with OOD rows as the positives.
        aupr_id: with ID rows as the positives.
        fpr_at_95_ood: share of ID rows flagged where 95 % of the OOD rows are flagged.
        fpr_at_95_id: share of OOD rows let through where 95 % of the ID rows are. What OpenOOD calls FPR@95.
    """

    auroc: float
    aupr_ood: float
    aupr_id: float
    fpr_at_95_ood: float
    fpr_at_95_id: float


def separation(id_N: Scores, ood_M: Scores) -> Separation:
    """Figures of scores, of which larger ones are further out; what is no number is the furthest out of all."""
    id_N, ood_M = _finite(id_N), _finite(ood_M)
    truth = np.concatenate([np.zeros(len(id_N)), np.ones(len(ood_M))])
    scores = np.concatenate([id_N, ood_M])
    return Separation(
        auroc=auroc(id_N, ood_M),
        aupr_ood=float(average_precision_score(truth, scores)),
        aupr_id=float(average_precision_score(1 - truth, -scores)),
        fpr_at_95_ood=float((id_N >= -reached_by(-ood_M)).mean()),
        fpr_at_95_id=float((ood_M <= reached_by(id_N)).mean()),
    )


def reached_by(values_N: Scores, percent: int = 95) -> float:
    """The smallest value that at least so many percent of the values do not exceed.

    By rank, in whole numbers: a quantile interpolates places in floats, and of 20 rows went on to the 20th for 95 %.
    """
    rank = -(-percent * len(values_N) // 100)  # rounded up
    return float(np.sort(values_N)[max(rank, 1) - 1])


def found_rates(scores: dict[str, NDArray[np.float32]]) -> dict[str, tuple[Scores, Scores]]:
    """For each set, all but the first, the shares of ID rows (the first) and of its own at or above an ID row's score.

    One place for each score that an ID row has, the highest first: rows of equal scores are flagged together.
    """
    id_N, *sets = (_finite(of_set) for of_set in scores.values())
    levels_K = np.unique(id_N)[::-1]

    def at_least(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 - np.searchsorted(np.sort(values_N), levels_K) / len(values_N)

    return {name: (at_least(id_N), at_least(of_set)) for name, of_set in zip([*scores][1:], sets, strict=True)}


def auroc(id_N: Scores, ood_M: Scores) -> float:
    """See `Separation`."""
    truth = np.concatenate([np.zeros(len(id_N)), np.ones(len(ood_M))])
    return float(roc_auc_score(truth, np.concatenate([_finite(id_N), _finite(ood_M)])))


def _finite(scores_N: Scores) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.where(np.isfinite(scores_N), scores_N, np.finfo(np.float32).max).astype(np.float64)
    return found
