"""What each detector sees of usual rows that were damaged on purpose, and the weight that follows from it.

A detector that is blind on these data gives every row a score by chance, and in a fusion of all it drowns the one that
sees. Which one sees cannot be asked of real faults: a choice among scores that has looked at them would be a promise
about these faults. It is asked of reference rows, damaged in many ways (`export.damage`): the power of a detector is
the area under the ROC curve (AUROC) of its score, of damaged against undamaged reference rows; chance is one half.

    weight = max(0, power - 1/2 - standard error of chance)^2, all of them 1 together

Shape legend: N damaged rows, M reference rows, K detectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from export.damage import damage
from export.detectors.detector import Arrays
from latentserve.inputs import INPUT
from training.data.lazy import HELD_BYTES, rows_within
from training.data.rows import Values

Embed = Callable[[Values], Arrays]
"""Rows -> the outputs of the exported graphs for them."""
DAMAGED_ROWS = 500
"""At most: an AUROC of so many is known to 0.02."""
MOST_TIMES = 8
"""That one reference row is damaged, where there are few."""
FEWEST_REFERENCE_ROWS = 10
"""With fewer any detector may seem to see: chance alone reaches 0.6."""


@dataclass(frozen=True)
class Power:
    """What detectors see.

    Attributes:
        auroc_K: of damaged against undamaged reference rows.
        num_usual: of the undamaged.
        num_damaged: of the others.
    """

    auroc_K: NDArray[np.float64]
    num_usual: int
    num_damaged: int

    @property
    def weights(self) -> NDArray[np.float64]:
        """They add up to 1; all are 0 if no detector sees more than chance would."""
        chance = math.sqrt((self.num_usual + self.num_damaged + 1) / (12 * self.num_usual * self.num_damaged))
        weights_K: NDArray[np.float64] = np.square(np.maximum(0, self.auroc_K - 0.5 - chance))
        return weights_K / weights_K.sum() if weights_K.any() else weights_K


def power_of(usual_MK: NDArray[Any], damaged_NK: NDArray[Any]) -> Power:
    """The AUROC of each column; ties count half."""
    num_usual, num_damaged = len(usual_MK), len(damaged_NK)
    ranks_K = stats.rankdata(np.concatenate([usual_MK, damaged_NK]), axis=0)[num_usual:].sum(axis=0)
    auroc_K = (ranks_K - num_damaged * (num_damaged + 1) / 2) / (num_usual * num_damaged)
    return Power(auroc_K, num_usual, num_damaged)


def damaged_rows(reference: Arrays, embed: Embed) -> Arrays | None:
    """Reference rows, damaged and embedded; None where there are too few, or damage does nothing to them.

    Args:
        reference: rows that no detector was fitted on.
        embed: see `Embed`.
    """
    values: Values = reference[INPUT]
    if len(values) < FEWEST_REFERENCE_ROWS:
        return None
    values = np.asarray(values[: min(DAMAGED_ROWS, rows_within(values, HELD_BYTES))])
    times = min(MOST_TIMES, math.ceil(DAMAGED_ROWS / len(values)))
    parts = [damage(values, seed).values for seed in range(times)]
    rows = np.concatenate(parts)[:DAMAGED_ROWS]
    return {INPUT: rows, **embed(rows)} if len(rows) else None
