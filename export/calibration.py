"""What makes p-values of scores: the sorted scores of rows that neither training nor the detectors saw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentserve.bundle import Detector
from latentserve.conformal import sha256_of_scores

DELTA = 0.1
"""How often at most the conditional guarantee may fail, over calibration sets: as Bates et al. take it."""


def calibrate(name: str, method: str, scores_N: NDArray[np.float32]) -> tuple[Detector, NDArray[np.float32]]:
    """The manifest's entry of a detector and its sorted calibration scores.

    Raises:
        ValueError: a score that is not finite: no p-value could be relied on.
    """
    if not np.isfinite(scores_N).all():
        raise ValueError(f"{name}: {int((~np.isfinite(scores_N)).sum())} calibration scores are not finite")
    ordered = np.sort(scores_N.astype(np.float32))
    return Detector(name, method, len(ordered), sha256_of_scores(ordered), DELTA), ordered
