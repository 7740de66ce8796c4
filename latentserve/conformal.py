"""Conformal p-values turn raw scores into decisions with a guaranteed error rate.

*Marginal*: if a new in-distribution row and the n calibration rows are exchangeable, its p-value is at most alpha with
a probability of at most alpha, whatever the score is. That is an average over calibration sets: with the one at hand
the rate is a draw of Beta(k, n + 1 - k), k = floor(alpha (n + 1)).

*Conditional*: with a probability of at least 1 - delta over calibration sets, the one at hand is such that rows are
flagged with a probability of at most alpha, for every alpha at once. It is a function of the marginal p-value:

    p = b_ceil((n + 1) t), b_(n + 1) = 1,  where  P[U_(1) <= b_1, ..., U_(n) <= b_n] >= 1 - delta

for the order statistics U_(i) of n uniform draws. Three such sequences b are here.

Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), eq. 2.20; Bates, Candes, Lei, Romano
and Sesia, Testing for outliers with conformal p-values, https://arxiv.org/abs/2104.08279, eq. 2, theorem 2 (the
function of the marginal p-value), section 3.2 (Simes), 3.3 (DKWM) and 3.4 (Monte Carlo); Benjamini and Hochberg, J.
Royal Statistical Society B 57 (1995) 289.

Shape legend: N rows, n calibration rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Adjustment = Literal["simes", "dkwm", "monte_carlo"]
ROUNDING = 1e-9
"""Numbers that differ by less, relatively, are equal but for rounding. Alpha is kept to a billionth of itself."""
SIMULATIONS = 4000
"""Draws of n uniform order statistics. Their own error is accounted for: see `_monte_carlo`."""
SMALLEST_SIMULATED_DELTA = 20 / SIMULATIONS
"""With few draws beyond the limit, or none, the limit would be random."""


def p_values(
    scores_N: NDArray[Any], sorted_calibration: NDArray[Any], rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Marginal p-values P = (1 + #{calibration scores >= score}) / (n + 1), float64 [N].

    Args:
        scores_N: larger is more out-of-distribution. NaN and infinity get the smallest p-value: they must never pass as
            in-distribution.
        sorted_calibration: [n], ascending, finite.
        rng: breaks ties at random, which makes p-values uniform where many scores are equal. Without it equal scores
            count as larger: p-values are larger, and the same row always gets the same one.

    Raises:
        ValueError: no calibration scores.
    """
    num = len(sorted_calibration)
    if num == 0:
        raise ValueError("sorted_calibration: got no scores, expected at least one")
    ranked_N = np.where(np.isfinite(scores_N), scores_N, np.inf)
    at_least_N = num - np.searchsorted(sorted_calibration, ranked_N, side="left")
    if rng is not None:  # the row's place among its equals, itself included
        above_N = num - np.searchsorted(sorted_calibration, ranked_N, side="right")
        at_least_N = above_N + rng.integers(0, at_least_N - above_N, endpoint=True)
    return np.asarray((1.0 + at_least_N) / (num + 1.0), np.float64)


def smallest_flagged(
    sorted_calibration: NDArray[np.float32], alpha: float, possible: NDArray[np.float64] | None = None
) -> float:
    """The smallest float32 whose p-value is at most alpha: just above the k-th largest calibration score.

    Args:
        sorted_calibration: [n], ascending, finite.
        alpha: at least the smallest possible p-value.
        possible: p-values [n] that the calibration can give but for 1, ascending; default: marginal ones.
    """
    num = len(sorted_calibration)
    k = int(at_most(np.arange(1, num + 1) / (num + 1) if possible is None else possible, alpha).sum())
    return float(np.nextafter(sorted_calibration[num - k], np.float32(np.inf)))


def at_most(p_values_N: NDArray[np.float64] | float, level: NDArray[np.float64] | float) -> NDArray[np.bool_]:
    """Whether p <= level [N], where equal numbers may differ in their last bits: in floats 1 - 0.9 is below 0.1.

    Every comparison of a p-value with a level is this one. Without it a row at exactly alpha is flagged or not by the
    order in which alpha was multiplied.
    """
    found: NDArray[np.bool_] = np.asarray(p_values_N) <= np.asarray(level) * (1 + ROUNDING)
    return found


LARGEST_THAT_COUNTS = 0.9
"""Nobody decides by whether p is 0.99 or 1: there p-values count as 0.9, however far they move."""


def scatter(p_values_N: NDArray[np.float64] | float, num_calibration_rows: int) -> NDArray[np.float64]:
    """How far p-values [N] typically lie from those of another calibration set of n rows.

    One rank plus the standard deviation of the rank, which is binomial. A smaller difference does not matter.
    """
    p_N, num = np.asarray(p_values_N, np.float64), num_calibration_rows
    found: NDArray[np.float64] = (1 + np.sqrt(num * p_N * (1 - p_N))) / (num + 1)
    return found


@dataclass(frozen=True)
class Move:
    """A p-value from two computations of one score.

    Attributes:
        detector: name of the detector.
        got: by one of them.
        expected: by the other.
        allowed: how far apart they may be: see `scatter`. So a decision changes only where p is as near to its level.
    """

    detector: str
    got: float
    expected: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the difference is allowed."""
        return abs(self.got - self.expected) <= self.allowed * (1 + ROUNDING)

    def __str__(self) -> str:
        return f"p by {self.detector} is {self.got:.3g}, expected {self.expected:.3g} +- {self.allowed:.2g}"


def worst_move(got_NK: NDArray[Any], expected_NK: NDArray[Any], sorted_calibration: Mapping[str, NDArray[Any]]) -> Move:
    """The move of all rows and detectors that is largest in relation to what is allowed.

    Args:
        got_NK: scores of some rows.
        expected_NK: of the same rows.
        sorted_calibration: scores [n] of each detector, in the order of the columns.
    """
    worst, largest = None, -1.0
    for k, (name, calibration) in enumerate(sorted_calibration.items()):
        both = (p_values(scores_NK[:, k], calibration) for scores_NK in (got_NK, expected_NK))
        got_N, expected_N = (np.minimum(p_N, LARGEST_THAT_COUNTS) for p_N in both)
        allowed_N = scatter(expected_N, len(calibration))
        share_N = np.abs(got_N - expected_N) / allowed_N
        row = int(share_N.argmax())
        if share_N[row] > largest:
            largest = float(share_N[row])
            worst = Move(name, float(got_N[row]), float(expected_N[row]), float(allowed_N[row]))
    if worst is None:
        raise ValueError("sorted_calibration: got no detector, expected at least one")
    return worst


def num_small_p_values(num_calibration_rows: int, alpha: float) -> int:
    """How many of the marginal p-values 1 / (n + 1) ... n / (n + 1) are at most alpha: floor(alpha (n + 1))."""
    return min(num_calibration_rows, math.floor(alpha * (num_calibration_rows + 1) * (1 + ROUNDING)))


def sha256_of_scores(scores: NDArray[np.float32]) -> str:
    """Identity of a calibration: sha256 of its sorted scores as little-endian float32, in hex."""
    return hashlib.sha256(scores.astype("<f4").tobytes()).hexdigest()


def conditional_p_values(
    marginal_N: NDArray[np.float64], num_calibration_rows: int, delta: float, adjustment: Adjustment
) -> NDArray[np.float64]:
    """Calibration-conditional p-values [N] from marginal ones.

    Raises:
        ValueError: no calibration rows, delta not between 0 and 1, or no such adjustment.
    """
    b = adjustments(num_calibration_rows, delta, adjustment)
    place_N = np.ceil(marginal_N * (num_calibration_rows + 1) * (1 - ROUNDING)).astype(int)
    p: NDArray[np.float64] = b[place_N - 1]
    return p


def check_delta(delta: float, adjustment: Adjustment) -> None:
    """Checks early whether `adjustments` can give such a guarantee.

    Raises:
        ValueError: no such adjustment, or a delta that it does not take.
    """
    known = get_args(Adjustment)
    if adjustment not in known:
        raise ValueError(f"adjustment: got {adjustment!r}, expected one of {sorted(known)}")
    if not 0 < delta < 1:
        raise ValueError(f"delta: got {delta}, expected between 0 and 1")
    if adjustment == "monte_carlo" and delta < SMALLEST_SIMULATED_DELTA:
        raise ValueError(f"delta: got {delta}, expected {SMALLEST_SIMULATED_DELTA:g} or more for monte_carlo")


@lru_cache(maxsize=64)
def adjustments(num: int, delta: float, adjustment: Adjustment) -> NDArray[np.float64]:
    """b_1 ... b_n and b_(n + 1) = 1, ascending. See the file's docstring."""
    if num < 1 or not 0 < delta < 1:
        raise ValueError(f"got {num} calibration rows and delta {delta}, expected 1 or more and between 0 and 1")
    check_delta(delta, adjustment)
    makers = {"simes": _simes, "dkwm": _dkwm, "monte_carlo": _monte_carlo}
    b = np.append(np.minimum(makers[adjustment](num, delta), 1.0), 1.0)
    b.flags.writeable = False  # it is cached
    return b


def _simes(num: int, delta: float) -> NDArray[np.float64]:
    """b_(n+1-i) = 1 - delta^(1/k) (i (i-1) ... (i-k+1) / (n (n-1) ... (n-k+1)))^(1/k), k = n / 2: tight for small p."""
    k = max(1, num // 2)
    i = np.arange(num, 0, -1)
    log_ratio = np.full(num, -np.inf)
    some = i >= k
    # the falling factorial i! / (i - k)! by its logarithm
    log_gamma = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])  # log 0!, log 1!, ...
    log_ratio[some] = log_gamma[i[some]] - log_gamma[i[some] - k] - (log_gamma[num] - log_gamma[num - k])
    b: NDArray[np.float64] = 1 - np.exp((math.log(delta) + log_ratio) / k)
    return b


def _dkwm(num: int, delta: float) -> NDArray[np.float64]:
    """b_i = i / n + sqrt(log(1 / delta) / (2 n)): the same width everywhere, so poor for small p.

    One-sided Dvoretzky-Kiefer-Wolfowitz-Massart; Massart's constant asks for delta of at most a half.
    """
    return np.arange(1, num + 1) / num + math.sqrt(math.log(1 / min(delta, 0.5)) / (2 * num))


def _monte_carlo(num: int, delta: float) -> NDArray[np.float64]:
    """b_i is the same quantile of each U_(i), the smallest one that simulation allows: tight for every p.

    The quantile is that of a normal z by Wilson and Hilferty's approximation, U_(i) = mean (1 - 1 / (9 i) + z s_i)^3,
    which need not be exact: the guarantee comes from the simulation. z is so high that even the upper 99 % confidence
    limit of its exceedances is at most delta. The seed is fixed, so that a bundle yields the same p-values everywhere.
    """
    i = np.arange(1, num + 1)
    mean, shift = i / (num + 1), 1 / (9 * i)
    deviation = np.sqrt((num + 1 - i) / (num + 1) / i) / 3
    rng = np.random.default_rng(0)
    worst = np.empty(SIMULATIONS)
    for row in range(SIMULATIONS):
        ordered = np.cumsum(rng.standard_exponential(num + 1))  # over their sum: uniform order statistics
        worst[row] = ((np.cbrt(ordered[:-1] / ordered[-1] / mean) - 1 + shift) / deviation).max()
    # of SIMULATIONS draws, how many at most may lie above z: binomial, by its normal approximation
    spare = SIMULATIONS * delta - 2.33 * math.sqrt(SIMULATIONS * delta * (1 - delta))
    z = np.sort(worst)[-math.floor(spare)]
    b: NDArray[np.float64] = np.maximum.accumulate(mean * (1 - shift + z * deviation) ** 3)
    return b


def rejected(p_values_N: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    """Benjamini and Hochberg's procedure: which rows [N] to flag so that alpha is the share of false alarms among them.

    The k rows of the smallest p-values, for the largest k with p_(k) <= alpha k / N.
    """
    num = len(p_values_N)
    ordered = np.sort(p_values_N)
    passed = np.flatnonzero(at_most(ordered, alpha * np.arange(1, num + 1) / num))
    if len(passed) == 0:
        return np.zeros(num, np.bool_)
    found: NDArray[np.bool_] = p_values_N <= ordered[passed[-1]]
    return found
