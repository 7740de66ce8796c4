"""Conformal p-values: what turns a raw score into an error rate that holds.

If a new in-distribution row and the n calibration rows are exchangeable, its p-value is at most alpha with a
probability of at most alpha, whatever the score is. Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a
Random World (2005), eq. 2.20; Bates et al., https://arxiv.org/abs/2104.08279, eq. 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def p_values(scores_N: NDArray[Any], sorted_calibration: NDArray[Any]) -> NDArray[np.float64]:
    """P = (1 + #{calibration scores >= score}) / (n + 1), float64 [N].

    Args:
        scores_N: larger is stranger. NaN gets the smallest p-value: it must never pass as usual.
        sorted_calibration: [n], ascending, finite.
    """
    num = len(sorted_calibration)
    # "left" counts equal calibration scores as at least as strange: ties make p larger, never smaller.
    at_least = num - np.searchsorted(sorted_calibration, scores_N, side="left")
    p: NDArray[np.float64] = (1.0 + np.where(np.isnan(scores_N), 0, at_least)) / (num + 1.0)
    return p
