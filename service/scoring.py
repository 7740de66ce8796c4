"""Scores to p-values and decisions, by the calibration in the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.bundle import Manifest
from latentserve.conformal import p_values
from latentserve.errors import InvalidInput, Unsupported


@dataclass(frozen=True)
class Verdicts:
    """Answers for n rows.

    Attributes:
        scores: float32 [n, K].
        p_values: float64 [n], of the deciding detector.
        flagged: bool [n], p_values <= alpha.
        alpha: level of the decision.
        num_not_finite: rows whose score was no number; they got the smallest p-value.
    """

    scores: NDArray[np.float32]
    p_values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    alpha: float
    num_not_finite: int


class Judge:
    """Judges the scores of one model. The first detector decides.

    Args:
        manifest: of the bundle.
        calibration: sorted scores by detector.
    """

    def __init__(self, manifest: Manifest, calibration: dict[str, NDArray[np.float32]]) -> None:
        self._manifest = manifest
        self._calibration = calibration

    def check_alpha(self, alpha: float | None) -> float:
        """The level to decide at: the caller's, or the bundle's. To be asked before anything is computed.

        Raises:
            Unsupported: there is no calibrated detector.
            InvalidInput: alpha is not between the smallest possible p-value and 1.
        """
        manifest = self._manifest
        if not manifest.detectors:
            raise Unsupported(
                f"model {manifest.name} version {manifest.version} has no calibrated detector: it cannot score"
            )
        if alpha is None:
            return manifest.default_alpha
        smallest = manifest.detectors[0].smallest_p_value
        if not smallest <= alpha < 1:
            raise InvalidInput.at(
                "alpha",
                got=f"{alpha:g}",
                expected=f"{smallest:.3g} (the smallest p-value that"
                f" {manifest.detectors[0].num_calibration_rows} calibration rows can give) or more, and below 1",
            )
        return alpha

    def judge(self, scores: NDArray[Any], alpha: float) -> Verdicts:
        """p-values and decisions for scores [n, K] at a level that `check_alpha` gave."""
        deciding = scores[:, 0]
        p = p_values(deciding, self._calibration[self._manifest.detectors[0].name])
        num_not_finite = int((~np.isfinite(scores)).any(axis=1).sum())
        return Verdicts(scores, p, p <= alpha, alpha, num_not_finite)
