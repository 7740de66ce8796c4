"""Scores to p-values and decisions, by the calibration in the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentserve.bundle import Detector, Manifest
from latentserve.conformal import at_most, conditional_p_values, p_values, rejected
from latentserve.errors import InvalidInput, Unsupported

Guarantee = Literal["marginal", "conditional"]
DecisionRule = Literal["per_row", "false_discovery_rate"]


@dataclass(frozen=True)
class ScoreOptions:
    """What a client asks of the scores.

    Attributes:
        alpha: level of the decision, between 0 and 1.
        guarantee: what alpha promises: see `latentserve.conformal`.
        decision: each row by itself, or Benjamini and Hochberg's over all rows.
    """

    alpha: float
    guarantee: Guarantee = "marginal"
    decision: DecisionRule = "per_row"


@dataclass(frozen=True)
class Decisions:
    """Of the scores of n rows and K detectors.

    Attributes:
        options: that they were made by.
        scores: float32 [n, K].
        detector_p_values: float64 [n, K], under the guarantee of the options.
        p_values: float64 [n], of the deciding detector, the first.
        marginal_p_values: float64 [n], of the deciding detector, whatever was asked for.
        flagged: bool [n].
        num_not_finite: rows with a score that was no number; it got the smallest p-value.
    """

    options: ScoreOptions
    scores: NDArray[np.float32]
    detector_p_values: NDArray[np.float64]
    p_values: NDArray[np.float64]
    marginal_p_values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    num_not_finite: int


class DecisionPolicy:
    """Decides on the scores of one model. The first detector decides.

    Args:
        manifest: of the bundle.
        calibration: sorted scores by detector.
    """

    def __init__(self, manifest: Manifest, calibration: dict[str, NDArray[np.float32]]) -> None:
        self._manifest = manifest
        self._calibration = calibration
        for one in manifest.detectors:
            one.smallest_conditional_p_value  # noqa: B018 (kept from now on: the first call need not compute it)

    def options(self, alpha: float | None, guarantee: Guarantee, decision: DecisionRule) -> ScoreOptions:
        """Checks what a client asks for, before anything is computed. The bundle's level is the default.

        Raises:
            Unsupported: there is no calibrated detector.
            InvalidInput: alpha is not between the smallest possible p-value and 1.
        """
        manifest = self._manifest
        if not manifest.detectors:
            raise Unsupported(
                f"model {manifest.name} version {manifest.version} has no calibrated detector: it cannot score"
            )
        check_calibration(manifest, manifest.detectors[0], guarantee)
        level = level_of(alpha, manifest.default_alpha, manifest.detectors[0], guarantee)
        return ScoreOptions(level, guarantee, decision)

    def decide(self, scores: NDArray[Any], options: ScoreOptions) -> Decisions:
        """p-values and decisions for scores [n, K]."""
        detectors = self._manifest.detectors
        marginal = [p_values(scores[:, k], self._calibration[one.name]) for k, one in enumerate(detectors)]
        asked = marginal
        if options.guarantee == "conditional":
            asked = [_conditional(p, one) for p, one in zip(marginal, detectors, strict=True)]
        if options.decision == "false_discovery_rate":
            flagged = rejected(asked[0], options.alpha)
        else:
            flagged = at_most(asked[0], options.alpha)
        num_not_finite = int((~np.isfinite(scores)).any(axis=1).sum())
        return Decisions(options, scores, np.stack(asked, axis=1), asked[0], marginal[0], flagged, num_not_finite)


def check_calibration(manifest: Manifest, detector: Detector, guarantee: Guarantee) -> None:
    """Raises Unsupported if the detector's calibration cannot give such a guarantee."""
    if guarantee == "conditional" and detector.calibration == "cross":
        raise Unsupported(
            f"model {manifest.name} version {manifest.version} was calibrated crosswise, by rows that its detectors"
            " were fitted on, too: it gives no conditional guarantee, which takes rows that were set aside"
        )


def level_of(alpha: float | None, default_alpha: float, detector: Detector, guarantee: Guarantee) -> float:
    """The level that a client asks for, the bundle's where it asks for none.

    Raises:
        InvalidInput: it is not between the smallest p-value that the detector can give and 1.
    """
    conditional = guarantee == "conditional"
    smallest = detector.smallest_conditional_p_value if conditional else detector.smallest_p_value
    level = default_alpha if alpha is None else alpha
    if not (at_most(smallest, level) and level < 1):
        raise InvalidInput.at(
            "alpha",
            got=f"{level:g}" + (" (the bundle's default)" if alpha is None else ""),
            expected=f"{smallest:.3g} (the smallest {guarantee} p-value that"
            f" {detector.num_calibration_rows} calibration rows can give) or more, and below 1",
        )
    return level


def _conditional(marginal_N: NDArray[np.float64], detector: Detector) -> NDArray[np.float64]:
    return conditional_p_values(marginal_N, detector.num_calibration_rows, detector.delta, detector.adjustment)
