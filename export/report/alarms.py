"""What false alarms to expect: the level alpha is an average over calibration sets, and this bundle has one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, betabinom

from latentserve.bundle import Manifest
from latentserve.conformal import at_most, num_small_p_values

CONFIDENCE = 0.95
Band = tuple[float, float]


@dataclass(frozen=True)
class Alarms:
    """False alarms at one level.

    Attributes:
        alpha: the level.
        num_calibration: calibration rows.
        num_test: test rows.
        num_flagged: of the test rows.
        band: in which the share of in-distribution rows flagged lies, for 95 % of calibration sets of this size.
        expected: in which the share of the test rows lies, for 95 % of calibration and test sets of these sizes.
    """

    alpha: float
    num_calibration: int
    num_test: int
    num_flagged: int
    band: Band
    expected: Band

    @property
    def share(self) -> float:
        """Of the test rows that are flagged."""
        return self.num_flagged / self.num_test


def alarms_of(manifest: Manifest, p_values: NDArray[np.float64]) -> Alarms | None:
    """At the bundle's default level; None without a detector."""
    if not manifest.detectors:
        return None
    alpha, num = manifest.default_alpha, manifest.detectors[0].num_calibration_rows
    flagged = int(at_most(p_values, alpha).sum())
    return Alarms(alpha, num, len(p_values), flagged, band(num, alpha), band_of_test(num, alpha, len(p_values)))


def band(num_calibration: int, alpha: float) -> Band:
    """The middle 95 % of Beta(k, n + 1 - k), k = floor(alpha (n + 1)): see `latentserve.conformal`."""
    k = num_small_p_values(num_calibration, alpha)
    if k == 0:  # no p-value is as small: nothing is ever flagged
        return 0.0, 0.0
    low, high = beta.interval(CONFIDENCE, k, num_calibration + 1 - k)
    return float(low), float(high)


def band_of_test(num_calibration: int, alpha: float, num_test: int) -> Band:
    """The same of the share among so many test rows: a binomial whose rate is that Beta."""
    k = num_small_p_values(num_calibration, alpha)
    if k == 0:
        return 0.0, 0.0
    low, high = betabinom.interval(CONFIDENCE, num_test, k, num_calibration + 1 - k)
    return float(low) / num_test, float(high) / num_test
