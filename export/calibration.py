"""Calibration: p-values are computed from the sorted scores of rows that neither training nor the detectors saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.crossing import num_calibrating
from latentserve.bundle import Detector
from latentserve.bundle_parts import Calibration
from latentserve.conformal import Adjustment, check_delta, num_small_p_values, sha256_of_scores
from training.data import Data
from training.data.shares import Calibration as Calibrating


@dataclass(frozen=True)
class Promise:
    """What a bundle's p-values are for.

    Attributes:
        alpha: level of a decision if the client names none.
        delta: probability, over calibration sets, that the conditional guarantee fails; a tenth in Bates et al.
        adjustment: how conditional p-values are computed: `simes` is tight for small ones, `dkwm` the same everywhere,
            `monte_carlo` nearly tight for all; it is simulated when a server loads the bundle.
        deciding: name of the detector whose p-value decides, known beforehand to be right for such data; default: the
            mean of all, weighted by what each sees of training rows that were damaged on purpose.
        detectors: names of those to fit, or `all` that the model has tensors for; default: all but the dearest
            (`patch_bank`) where it sees no more than others do. With fewer a score costs less.
    """

    alpha: float = 0.05
    delta: float = 0.1
    adjustment: Adjustment = "simes"
    deciding: str | None = None
    detectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: got {self.alpha}, expected between 0 and 1")
        check_delta(self.delta, self.adjustment)


def can_score(promise: Promise, num_rows: int) -> bool:
    """Whether a p-value computed from so many calibration rows can be as small as alpha."""
    return num_small_p_values(num_rows, promise.alpha) > 0


def calibration_rows(data: Data) -> str:
    """How many there are, and what counts as one."""
    of_groups = "" if data.calibration.units_N is None else " (one of each group, or of each set of equal rows)"
    return f"{num_calibrating(data)} calibration rows{of_groups}"


def no_scores(promise: Promise, data: Data) -> str:
    """Why a bundle has none; how many images it takes the loader has said."""
    fewest = Calibrating(alpha=promise.alpha).needed
    return f"no scores: {calibration_rows(data)} cannot keep a level of {promise.alpha:g}, which takes {fewest:,}"


def calibrate(
    name: str, method: str, scores_N: NDArray[np.float32], promise: Promise, how: Calibration = "split"
) -> tuple[Detector, NDArray[np.float32]]:
    """The manifest's entry of a detector and its sorted calibration scores.

    Raises:
        ValueError: a score that is not finite: no p-value could be relied on.
    """
    if not np.isfinite(scores_N).all():
        raise ValueError(f"{name}: {int((~np.isfinite(scores_N)).sum())} calibration scores are not finite")
    ordered = np.sort(scores_N.astype(np.float32))
    sha256 = sha256_of_scores(ordered)
    return Detector(name, method, len(ordered), sha256, promise.delta, promise.adjustment, calibration=how), ordered
