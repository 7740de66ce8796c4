"""The live monitor of one model version: do the rows that are scored still look like the calibration rows?

If they do not, p-values guarantee nothing. There are three tests, none of which needs labels:

 1. The e-process, which may be read after every row. The monitor bets that the next row is more out-of-distribution
    than chance allows (`e_process`). If scored and calibration rows are exchangeable, its wealth ever reaches 1 / level
    with a probability of at most level, however long the service runs (Ville). The alarm raised there stays until the
    version is loaded again: a new version, or a restart. From the alarm on, rows are compared with the rows before it:
    otherwise a shift that lasts would become the norm. So the wealth falls once a shift has ended.
 2. The window: the share of p-values <= alpha among the last rows, beside the band in which it lies with probability
    1 - level at any one time. It describes the present and clears by itself; over years it will leave the band.
 3. Embeddings: how far their mean has moved from that of the calibration rows. This sees changes that the score does
    not. It is a statement of the same kind as the window's, over about as many of the last rows.

Shapes: N rows of a request, K detectors, D dimensions of the embedding.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.conformal import num_small_p_values
from service.observing.e_process import EProcess
from service.observing.ranks import Ranks

log = logging.getLogger(__name__)

FEWEST_EMBEDDINGS = 100
"""With fewer rows, the mean is not near enough to normal for an alarm."""


@dataclass(frozen=True)
class MonitorConfig:
    """What counts as a shift.

    Attributes:
        window_rows: scored rows that the window, and about as many that the mean embedding looks back on.
        level: probability of a false alarm, see the module; below 0.2, see `EmbeddingDrift`.
    """

    window_rows: int = 1000
    level: float = 0.01


class EmbeddingDrift:
    """How far the mean of the last embeddings is from that of the calibration rows.

    z_d^2 = (mean_d - calibration_mean_d)^2 / (std_d^2 (sum of squared weights + 1 / calibration rows)), averaged over
    the dimensions. 1 is expected without a shift. Dimensions are correlated, nobody knows how, so the alarm is at the
    quantile of the worst case, a single chi-squared: no other sum of squared normals with mean 1 exceeds what it
    exceeds with probability 0.2 or less more often. Source: Szekely and Bakirov, Extremal probabilities for Gaussian
    quadratic forms (2003).

    Args:
        mean: [D], of the calibration rows.
        std: [D]; dimensions that never vary are left out.
        num_calibration_rows: behind both.
        config: how far to look back, and the level.
    """

    def __init__(self, mean: NDArray[Any], std: NDArray[Any], num_calibration_rows: int, config: MonitorConfig) -> None:
        self.alarm_above = NormalDist().inv_cdf(1 - config.level / 2) ** 2
        self.num_rows = 0
        self._expected, self._std = mean.astype(np.float64), std.astype(np.float64)
        self._num_calibration_rows = num_calibration_rows
        # Weights fall by this a row: their squares then sum up to 1 / window_rows, as those of a plain mean would.
        self._keep = 1 - 2 / (config.window_rows + 1)
        self._mean = self._expected
        self._sum_of_squared_weights = 0.0

    def observe(self, embeddings_ND: NDArray[Any]) -> None:
        """Moves the mean. A request with a number that is not finite is left out."""
        num = len(embeddings_ND)
        mean_D = embeddings_ND[0] if num == 1 else embeddings_ND.mean(axis=0)
        if not math.isfinite(mean_D.sum()):
            return
        self.num_rows += num
        weight = max(num / self.num_rows, 1 - self._keep**num)  # a plain mean, until there are enough
        self._mean = self._mean + weight * (mean_D - self._mean)
        self._sum_of_squared_weights = (1 - weight) ** 2 * self._sum_of_squared_weights + weight**2 / num

    @property
    def value(self) -> float:
        """The mean z^2, NaN before there are rows."""
        varies = self._std > 0
        if not self.num_rows or not varies.any():
            return math.nan
        variance = self._std[varies] ** 2 * (self._sum_of_squared_weights + 1 / self._num_calibration_rows)
        return float(((self._mean - self._expected)[varies] ** 2 / variance).mean())

    @property
    def alarm(self) -> bool:
        """True while the mean is further off than chance explains."""
        return self.num_rows >= FEWEST_EMBEDDINGS and self.value > self.alarm_above


class Monitor:
    """Watches what one model version scores. One event loop; figures may be read from another thread.

    Args:
        name: of the model version, for the log.
        calibration: scores of the deciding detector.
        alpha: the bundle's, for the window.
        config: what counts as a shift.
        embeddings: mean and std [D] of the calibration rows' embeddings, if the bundle has them.
        ranks: of these calibration scores, with ties drawn by a seed of the caller's; default: at random.

    Attributes:
        num_rows: scored so far.
        alarm_row: the row that raised the alarm of the e-process, counted from 1, or None.
        drift: of the embeddings, if the bundle says what to expect.
    """

    def __init__(
        self,
        name: str,
        calibration: NDArray[Any],
        alpha: float,
        config: MonitorConfig,
        embeddings: tuple[NDArray[Any], NDArray[Any]] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        num = len(calibration)
        self.num_rows = 0
        self.alarm_row: int | None = None
        self.drift = EmbeddingDrift(*embeddings, num, config) if embeddings else None
        self._name = name
        self._config = config
        self._ranks = ranks or Ranks(calibration)
        self._e_process = EProcess()
        self._num_small = num_small_p_values(num, alpha)
        self._num_calibration_rows = num
        # p <= alpha means: before this calibration row.
        self._first_above_alpha = self._ranks.keys[self._num_small - 1] if self._num_small else (-math.inf, -1.0)
        self._window: deque[bool] = deque(maxlen=config.window_rows)
        self._num_small_seen = 0

    def observe(self, scores_NK: NDArray[Any] | None, embeddings_ND: NDArray[Any] | None) -> None:
        """Takes what was computed for one request. Only the first detector's scores count."""
        if embeddings_ND is not None and self.drift:
            self.drift.observe(embeddings_ND)
        if scores_NK is not None:
            for score in scores_NK[:, 0].tolist():
                self._observe_score(score)

    def _observe_score(self, score: float) -> None:
        self.num_rows += 1
        key = self._ranks.key(score)
        small = key < self._first_above_alpha
        if len(self._window) == self._config.window_rows:
            self._num_small_seen -= self._window[0]
        self._window.append(small)
        self._num_small_seen += small
        place = self._ranks.place(key)
        self._e_process.bet(*self._ranks.interval(place))
        if self.alarm_row is None:
            self._ranks.learn(place)
            if self._e_process.wealth >= 1 / self._config.level:
                self.alarm_row = self.num_rows
                log.warning("%s: scored rows are not like the calibration rows (row %d)", self._name, self.num_rows)

    @property
    def log10_wealth(self) -> float:
        """Log10 of the e-process' wealth: 0 at the start; the alarm is raised at -log10(level)."""
        return math.log10(self._e_process.wealth)

    @property
    def share(self) -> float:
        """Share of the window's rows with p <= alpha; ties at alpha are broken at random. NaN without rows."""
        return self._num_small_seen / len(self._window) if self._window else math.nan

    @property
    def band(self) -> tuple[float, float]:
        """The share lies between these, both included, with probability 1 - level at any one time."""
        num = len(self._window)
        low, high = band(num, self._num_small, self._num_calibration_rows, self._config.level)
        return (low / num, high / num) if num else (math.nan, math.nan)

    @property
    def alarms(self) -> dict[str, bool]:
        """By kind: `e_process` stays raised; `window`, and `embedding` where it is monitored, describe the present."""
        low, high = self.band
        alarms = {"e_process": self.alarm_row is not None, "window": self.share < low or self.share > high}
        return alarms | ({"embedding": self.drift.alarm} if self.drift else {})


@lru_cache(maxsize=64)
def band(num_rows: int, num_small: int, num_calibration_rows: int, level: float) -> tuple[int, int]:
    """Counts of p <= alpha among so many rows: below and above lie at most level / 2 each.

    Given the calibration rows, p-values are <= alpha with a rate that is not alpha itself. Over calibration sets it
    follows Beta(k, n + 1 - k), where k = floor(alpha (n + 1)), so the count is beta-binomial and the band wider than a
    binomial one: for 1,000 rows against 1,000 calibration rows by sqrt(2). Source: Marques,
    https://arxiv.org/abs/2303.02770.
    """
    if num_small == 0:
        return 0, 0
    a, b, x = num_small, num_calibration_rows + 1 - num_small, np.arange(num_rows)
    log_none = math.lgamma(b + num_rows) - math.lgamma(b) + math.lgamma(a + b) - math.lgamma(a + b + num_rows)
    log_ratios = np.log((num_rows - x) * (x + a)) - np.log((x + 1.0) * (num_rows - x - 1 + b))
    cdf = np.cumsum(np.exp(log_none + np.concatenate([[0.0], np.cumsum(log_ratios)])))
    low = int(np.searchsorted(cdf, level / 2, side="right"))
    high = int(np.searchsorted(cdf, 1 - level / 2, side="left"))
    return low, min(high, num_rows)
