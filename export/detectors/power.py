"""What each detector sees of in-distribution rows that were damaged on purpose, and the weight that follows from it.

A detector that is blind on these data gives every row a score by chance, and in a fusion of all it drowns the one that
sees. Which one sees cannot be asked of real faults: a choice among scores that has looked at them would be a promise
about these faults. It is asked of reference rows, damaged in many ways (`export.damage`): the power of a detector is
the area under the ROC curve (AUROC) of its score, of damaged against undamaged reference rows; chance is one half.

    weight = 0.1^4 + mean over kinds of max(0, AUROC of that kind - 1/2 - its standard error)^4, all 1 together

Kinds are many, and a detector sees some: a mean AUROC would be that of the easiest. What sees one kind as nobody else
does keeps a weight; what sees nothing has hardly any, where another sees. Where all see little they weigh much alike,
as differences of little are chance.

Shape legend: N damaged rows, M reference rows, K detectors, D kinds of damage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

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
EXPONENT = 4
"""Of 2, 3 and 4, by kind or of all kinds together: docs/adr/0025."""
LITTLE = 0.1
"""Of an AUROC above chance: each detector counts as if it saw so much more of every kind."""
FEWEST_TO_SPARE = 100
"""Reference rows: with fewer a detector that alone sees a kind of damage is often missed."""
FEWEST_REFERENCE_ROWS = 10
"""With fewer any detector may seem to see: chance alone reaches 0.6."""


@dataclass(frozen=True)
class Power:
    """What detectors see.

    Attributes:
        auroc_K: of all damaged rows against the undamaged reference rows.
        auroc_DK: of the rows of each kind.
        num_usual: of the undamaged.
        num_damaged_D: of each kind.
    """

    auroc_K: NDArray[np.float64]
    auroc_DK: NDArray[np.float64]
    num_usual: int
    num_damaged_D: NDArray[np.int64]

    @property
    def num_damaged(self) -> int:
        """Of all kinds."""
        return int(self.num_damaged_D.sum())

    def adds(self, column: int) -> bool:
        """Whether it sees more than every other does: of all damage, or of a kind by more than a standard error.

        True where reference rows are so few that it cannot be told.
        """
        if self.num_usual < FEWEST_TO_SPARE or self.auroc_K[column] >= np.delete(self.auroc_K, column).max():
            return True
        others_D = np.delete(self.auroc_DK, column, axis=1).max(axis=1)
        more_D = self.auroc_DK[:, column] - others_D
        return bool((more_D > _chance(self.num_usual, self.num_damaged_D)).any())

    def of(self, columns: Sequence[int]) -> Self:
        """What some of the detectors see."""
        return replace(self, auroc_K=self.auroc_K[columns], auroc_DK=self.auroc_DK[:, columns])

    @property
    def weights(self) -> NDArray[np.float64]:
        """They add up to 1; all are 0 if no detector sees more than chance would."""
        chance_D1 = _chance(self.num_usual, self.num_damaged_D)[:, None]
        seen_DK = np.maximum(0, self.auroc_DK - 0.5 - chance_D1)
        weights_K: NDArray[np.float64] = LITTLE**EXPONENT + (seen_DK**EXPONENT).mean(axis=0)
        # of many kinds one is bound to be above chance, by chance
        sees = (self.auroc_K > 0.5 + 2 * _chance(self.num_usual, np.array(self.num_damaged))).any()
        return weights_K / weights_K.sum() if sees else np.zeros_like(weights_K)


def power_of(usual_MK: NDArray[Any], damaged_NK: NDArray[Any], kinds_N: NDArray[Any]) -> Power:
    """Of each column; kinds of the damaged rows by name or number."""
    kinds, of_kind_N = np.unique(kinds_N, return_inverse=True)
    by_kind = [_auroc(usual_MK, damaged_NK[of_kind_N == kind]) for kind in range(len(kinds))]
    return Power(_auroc(usual_MK, damaged_NK), np.stack(by_kind), len(usual_MK), np.bincount(of_kind_N))


def _auroc(usual_MK: NDArray[Any], damaged_NK: NDArray[Any]) -> NDArray[np.float64]:
    """Ties count half."""
    num_usual, num_damaged = len(usual_MK), len(damaged_NK)
    ranks_K = stats.rankdata(np.concatenate([usual_MK, damaged_NK]), axis=0)[num_usual:].sum(axis=0)
    auroc_K: NDArray[np.float64] = (ranks_K - num_damaged * (num_damaged + 1) / 2) / (num_usual * num_damaged)
    return auroc_K


def _chance(num_usual: int, num_damaged: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard error of the AUROC of a score that sees nothing."""
    chance: NDArray[np.float64] = np.sqrt((num_usual + num_damaged + 1) / (12 * num_usual * num_damaged))
    return chance


def damaged_rows(reference: Arrays, embed: Embed) -> tuple[Arrays, NDArray[np.str_]] | None:
    """Reference rows, damaged and embedded, and the kind of each; None where they are too few or damage does nothing.

    Args:
        reference: rows that no detector was fitted on.
        embed: see `Embed`.
    """
    values: Values = reference[INPUT]
    if len(values) < FEWEST_REFERENCE_ROWS:
        return None
    values = np.asarray(values[: min(DAMAGED_ROWS, rows_within(values, HELD_BYTES))])
    times = min(MOST_TIMES, math.ceil(DAMAGED_ROWS / len(values)))
    parts = [damage(values, seed) for seed in range(times)]
    rows = np.concatenate([part.values for part in parts])[:DAMAGED_ROWS]
    kinds_N = np.concatenate([part.kinds_N for part in parts])[:DAMAGED_ROWS]
    return ({INPUT: rows, **embed(rows)}, kinds_N) if len(rows) else None
