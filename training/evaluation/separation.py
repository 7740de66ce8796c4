"""How well scores tell strange rows from usual ones.

Conventions differ between papers, and the same scores give other figures: both are computed, each named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score


@dataclass(frozen=True)
class Separation:
    """Figures of one score against one strange set.

    Attributes:
        auroc: probability that a strange row scores higher than a usual one, ties counting half; 0.5 is chance.
        aupr_strange: average precision with strange rows as the positives.
        aupr_usual: with usual rows as the positives.
        fpr_at_95_strange: share of usual rows flagged where 95 % of the strange ones are found.
        fpr_at_95_usual: share of strange rows let through where 95 % of the usual ones are. What OpenOOD calls FPR@95.
    """

    auroc: float
    aupr_strange: float
    aupr_usual: float
    fpr_at_95_strange: float
    fpr_at_95_usual: float


def separation(usual_N: NDArray[Any], strange_M: NDArray[Any]) -> Separation:
    """Figures of scores, larger is stranger; what is no number is the strangest of all."""
    usual_N, strange_M = _finite(usual_N), _finite(strange_M)
    truth = np.concatenate([np.zeros(len(usual_N)), np.ones(len(strange_M))])
    scores = np.concatenate([usual_N, strange_M])
    return Separation(
        auroc=auroc(usual_N, strange_M),
        aupr_strange=float(average_precision_score(truth, scores)),
        aupr_usual=float(average_precision_score(1 - truth, -scores)),
        fpr_at_95_strange=float((usual_N >= np.quantile(strange_M, 0.05, method="lower")).mean()),
        fpr_at_95_usual=float((strange_M <= np.quantile(usual_N, 0.95, method="higher")).mean()),
    )


def auroc(usual_N: NDArray[Any], strange_M: NDArray[Any]) -> float:
    """See `Separation`."""
    truth = np.concatenate([np.zeros(len(usual_N)), np.ones(len(strange_M))])
    return float(roc_auc_score(truth, np.concatenate([_finite(usual_N), _finite(strange_M)])))


def _finite(scores_N: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.where(np.isfinite(scores_N), scores_N, np.finfo(np.float32).max).astype(np.float64)
    return found
