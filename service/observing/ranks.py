"""Exact ranks of scored rows: among the calibration rows AND all rows scored before.

If scored and calibration rows are exchangeable, such ranks are independent and uniform; p-values against ONE set
are not. Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), chapter 2.

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
