"""An e-process (test martingale) against the hypothesis that scored rows are exchangeable with calibration rows.

It bets on exact ranks. Why not on the p-values as they are? They all compare with ONE calibration set, and given this
set they are not uniform but off by about 1 / sqrt(n): a bettor who waits long enough wins without any shift (`python -m
benchmarks.results.monitor` shows it). So a row's rank here is its rank among the calibration rows AND all rows scored
before it. Such ranks are independent and uniform. Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
World (2005), chapter 2; to bet on them: Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line (ICML 2003).

Rows scored before are remembered only by the bin between calibration scores that they fell into. That keeps ranks
exact: given the calibration rows, bins follow Polya's urn, which begins with one ball for each gap between adjacent
calibration scores and gets one more for each row that falls there.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

FIRST_BIN = 0.01
"""The hundredth of rows that is most out-of-distribution is one bin: a black image or two among thousands of rows are
no shift."""
BIN_RATIO = 1.2
"""Each further bin ends at a rank this much larger, about 25 bins in all. Within one, bets hardly change."""
SHARES, EXPONENTS = (0.1, 0.4), (0.05, 0.2, 0.5)
"""One bettor for each pair: a share of the rows has p-values with the density k p^(k - 1), the rest are uniform."""
AT_ONCE, HALF_LIFE_ROWS = 0.5, 1000
"""Half the wealth is bet from the first row. The rest follows row by row, half of it within 1,000 rows and always some
to come, so that a shift after a long time without one meets wealth that has not been lost yet."""
MOST_WEALTH = 1e12
"""What is won beyond this is discarded, so that the wealth falls soon after a shift has ended."""


class Ranks:
    """Ranks of scores among the calibration scores and all scores learnt, as intervals of p-values.

    A score equal to a calibration score ranks above or below it at random: this keeps ranks uniform.

    Args:
        calibration: scores, finite.
        seed: of the ties. None draws one, as a service must: the guarantee holds on average over ties, and with one
            seed for all services there is nothing to average over.
    """

    def __init__(self, calibration: NDArray[Any], seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self.keys = sorted((-score, self._random.random()) for score in calibration.tolist())
        ranks = [0, max(1, int(len(self.keys) * FIRST_BIN))]
        while ranks[-1] * BIN_RATIO < len(self.keys):
            ranks.append(max(ranks[-1] + 1, int(ranks[-1] * BIN_RATIO)))
        self._edges = [self.keys[rank - 1] for rank in ranks[1:]]
        self._balls = [end - start for start, end in pairwise([*ranks, len(self.keys) + 1])]
        self._num_balls = len(self.keys) + 1

    def key(self, score: float) -> tuple[float, float]:
        """Ascending from the most out-of-distribution score; a score that is not finite comes before all others."""
        return (-score if math.isfinite(score) else -math.inf), self._random.random()

    def place(self, key: tuple[float, float]) -> int:
        """The bin of a key."""
        return bisect_right(self._edges, key)

    def interval(self, place: int) -> tuple[float, float]:
        """The next key's p-value is uniform; knowing its bin, uniform between these two."""
        above = sum(self._balls[:place])
        return above / self._num_balls, (above + self._balls[place]) / self._num_balls

    def learn(self, place: int) -> None:
        """Later keys are compared with the key in this bin, too."""
        self._balls[place] += 1
        self._num_balls += 1


class EProcess:
    """Bets a wealth of 1 on small p-values, row by row.

    Bets are fair: each pays 1 on average over a uniform p-value. Only the bin of a p-value is known, so a bet pays its
    mean over the bin, which is as fair and draws nothing at random.

    Attributes:
        wealth: what the bettors hold and what has not been bet yet; never 0.
    """

    def __init__(self) -> None:
        num_bettors = len(SHARES) * len(EXPONENTS)
        self.wealth = 1.0
        self._held = [AT_ONCE / num_bettors] * num_bettors
        self._reserve = 1 - AT_ONCE
        self._num_rows = 0

    def bet(self, low: float, high: float) -> None:
        """Settles the bets on one p-value, known to lie between low and high."""
        self._num_rows += 1
        reserve = (1 - AT_ONCE) / (1 + self._num_rows / HALF_LIFE_ROWS)
        fresh = (self._reserve - reserve) / len(self._held)
        self._reserve = reserve
        width = high - low
        gains = [(high**k - low**k) / width - 1 for k in EXPONENTS]
        factors = [1 + share * gain for share in SHARES for gain in gains]
        held = [(before + fresh) * factor for before, factor in zip(self._held, factors, strict=True)]
        total = sum(held)
        if total > MOST_WEALTH:
            held = [one * (MOST_WEALTH / total) for one in held]
            total = MOST_WEALTH
        self._held = held
        self.wealth = total + reserve
