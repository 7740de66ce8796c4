"""Cross-conformal calibration: of few rows each calibrates, by detectors that were fitted without its fold.

An encoder that was trained elsewhere has seen none of the rows. So they are dealt into folds, the detectors are fitted
on all folds but one, and score that one; the scores of all folds, pooled, calibrate. The detectors that are served are
fitted on rows of all folds. Every row does both, where a split keeps some from each.

What it promises. Vovk's cross-conformal predictor and CV+ of Barber et al. compare a new row with each fold by the
detectors of that fold, and flag at most 2 alpha and a small term, whatever the data. One graph is served here and not
one a fold: the scores of different fits are held against each other, and no bound holds for all data (Barber et al.,
section 2). So every fit, the served one too, is given as many rows to fit on and as many for reference: then a new
row's score has the distribution of each row's that calibrates, and what is left is that these depend on each other.
What holds is measured (docs/adr/0026).

Sources: Vovk, Cross-conformal predictors, https://arxiv.org/abs/1208.0806; Vovk and Wang, Combining p-values via
averaging, https://arxiv.org/abs/1212.4966 (the factor 2); Barber, Candes, Ramdas and Tibshirani, Predictive inference
with the jackknife+, https://arxiv.org/abs/1905.02928.

Shape legend: N rows, K columns of scores.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.detectors.detector import Arrays
from export.detectors.drawing import REFERENCE_SHARE, Drawn
from export.detectors.power import Embed, Power
from export.detectors.scorer import Scorer
from latentserve.inputs import INPUT
from training.data import Data
from training.data.units import Units, count, drawn, equal_rows

FOLDS = 5
"""A fit on four fifths of the rows is not far from one on all; ten folds cost twice as much."""


class Crossed(NamedTuple):
    """What comes of it.

    Attributes:
        scorer: fitted on rows of all folds.
        scores: float32 [N, K] of one row of each unit, each by a scorer that saw no row of its fold.
        rows: which rows these are.
    """

    scorer: Scorer
    scores: NDArray[np.float32]
    rows: NDArray[np.int64]

    def scores_of(self, scorer: Scorer) -> NDArray[np.float32]:
        """The scores, with its columns in the order of another: see `Scorer.deciding`."""
        return self.scores[:, [self.scorer.names.index(name) for name in scorer.names]]


def crosses(data: Data) -> bool:
    """Whether no row was set aside to calibrate."""
    return len(data.calibration) == 0


def num_calibrating(data: Data) -> int:
    """How many rows calibrate: one of each unit."""
    train = data.train
    return count(train.with_twins().units_N, len(train)) if crosses(data) else len(data.calibration)


def crossed(
    model: object,
    tensors: Arrays,
    units_N: Units | None = None,
    embed: Embed | None = None,
    power: Power | None = None,
    num_folds: int = FOLDS,
    wanted: Collection[str] = (),
) -> Crossed:
    """Fits the detectors, and scores each row by detectors that were fitted on the other folds.

    Args:
        model: see `Scorer.fit`.
        tensors: inputs, and the outputs of the exported graphs for them; the encoder saw none of these rows.
        units_N: of the rows, which no fold parts; default: equal rows are one.
        embed: see `Scorer.fit`: the served fit weighs the detectors, and those of folds take its weights.
        power: likewise.
        num_folds: at most; no more than there are units.
        wanted: see `Scorer.fit`.

    Raises:
        ValueError: fewer than two units.
    """
    num_rows = len(tensors["embedding"])
    if units_N is None and INPUT in tensors:
        units_N = equal_rows(tensors[INPUT])
    units_N = np.arange(num_rows) if units_N is None else units_N
    folds_N, one_each = dealt(units_N, num_folds)
    num_folds = int(folds_N.max()) + 1
    fewest = min(count(units_N[folds_N != fold], num_rows) for fold in range(num_folds))
    num_reference = max(2, int(REFERENCE_SHARE * fewest))
    num_fitted = min(int((folds_N != fold).sum()) for fold in range(num_folds)) - num_reference
    everything = np.arange(num_rows)
    fit = partial(_fitted, model, tensors, units_N, num_reference=num_reference, num_fitted=num_fitted, wanted=wanted)
    served = fit(everything, embed=embed, power=power)
    fit = partial(fit, wanted=[one.name for one in served.members])
    scores = dict[int, NDArray[np.float32]]()
    for fold in range(num_folds):
        others = np.flatnonzero(folds_N != fold)
        scorer = fit(others, embed=None, power=served.power)
        held_out = one_each[folds_N[one_each] == fold]
        found = scorer.scores({name: array[held_out] for name, array in tensors.items()})
        scores.update(zip(held_out.tolist(), found, strict=True))
    return Crossed(served, np.stack([scores[row] for row in one_each.tolist()]), one_each)


def dealt(units_N: Units, num_folds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fold of each row, and a row of each unit, drawn at random: see `training.data.units`.

    Raises:
        ValueError: fewer than two units.
    """
    generator = np.random.default_rng(0)
    names, place_N = np.unique(units_N, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"got {len(names)} units, expected 2 or more to deal into folds")
    fold_of_unit = np.arange(len(names)) % min(num_folds, len(names))
    folds_N = generator.permutation(fold_of_unit)[place_N]
    order_N = generator.permutation(len(units_N))
    one_each = order_N[np.unique(place_N[order_N], return_index=True)[1]]
    return folds_N, np.sort(one_each)


def _fitted(
    model: object,
    tensors: Arrays,
    units_N: Units,
    rows: NDArray[np.int64],
    *,
    num_reference: int,
    num_fitted: int,
    embed: Embed | None,
    power: Power | None,
    wanted: Collection[str],
) -> Scorer:
    """A scorer of some rows, of which so many are for reference."""
    order = np.random.default_rng(0).permutation(len(rows))
    reference, fitted = drawn(units_N[rows], order, num_reference)
    fitted = fitted[:num_fitted]
    some = {name: array[rows] for name, array in tensors.items()}
    chosen = Drawn(reference, fitted)
    return Scorer.fit(model, some, chosen=chosen, embed=embed, power=power, wanted=wanted)
