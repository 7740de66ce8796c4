"""Training rows that look unlike the rest: faults among the usual ones, perhaps. They are named, none is left out.

Rows are dealt into folds, and each is scored by detectors that were fitted on the others: the distances of its
embedding and of its input to the mean. A row is unlike the rest if the logarithm of one of these lies more than five
robust deviations above the median. Scores of in-distribution rows are skewed to the right, their logarithms hardly. It
is a look at the data and no test: what it does not name may be faulty; among a hundred rows a fault must be gross.

Source: Rousseeuw and Croux, Alternatives to the median absolute deviation, J. American Statistical Association 88
(1993) 1273 (the factor 1.4826).

Shape legend: N rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.crossing import FOLDS, dealt
from export.detectors.detector import Arrays, FittedDetector, batches_of
from export.detectors.inputs import InputMahalanobis
from export.detectors.mahalanobis import Mahalanobis
from training.data import Rows
from training.data.lazy import rows_within
from training.data.rows import say
from training.data.units import count, equal_rows

LOOKING: tuple[type[FittedDetector], ...] = (Mahalanobis, InputMahalanobis)
"""Neighbours named no faulty tile: faults that are like each other are neighbours."""
FEWEST_ROWS = 20
DEVIATIONS = 5.0
OF_NORMAL = 1.4826
"""Times the median absolute deviation is the standard deviation of a normal distribution."""
SMALLEST_SCORE = 1e-12
MOST_ROWS, MOST_BYTES = 2_000, 2**27
"""Rows that are looked at, of more some: it is a look at the data, not a part of the model."""
MOST_NAMED = 5


def say_unusual(rows: Rows, tensors: Arrays, what: str) -> NDArray[np.int64]:
    """Says how many training rows look unlike the rest, and which; returns them.

    Args:
        rows: that detectors were fitted on.
        tensors: inputs, and the outputs of the exported graphs for them.
        what: the data, for the sentence.
    """
    most = min(MOST_ROWS, max(FEWEST_ROWS, rows_within(rows.values, MOST_BYTES)))
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
    found = chosen[unusual({name: array[chosen] for name, array in tensors.items()})]
    if len(found):
        of = f"{len(chosen):,}" if len(chosen) == len(rows) else f"{len(chosen):,} that were looked at"
        line = f"{what}: {len(found)} of {of} training rows look unlike the rest{_named(rows, found)}"
        say(f"{line}; take them out if they are faulty, or such faults count as usual")
    return found


def unusual(tensors: Arrays) -> NDArray[np.int64]:
    """The rows that lie beyond `DEVIATIONS`, the farthest first; none of fewer rows than say what is usual."""
    num_rows = len(tensors["embedding"])
    if num_rows < FEWEST_ROWS:
        return np.empty(0, np.int64)
    kinds = [kind for kind in LOOKING if tensors.keys() >= set(kind.inputs)]
    units_N = equal_rows(tensors["input"]) if "input" in tensors else None
    if count(units_N, num_rows) < FEWEST_ROWS:
        return np.empty(0, np.int64)
    folds_N, _ = dealt(np.arange(num_rows) if units_N is None else units_N, FOLDS)
    worst_N = np.full(num_rows, -np.inf)
    for kind in kinds:
        worst_N = np.maximum(worst_N, _deviations(_left_out_scores(kind, tensors, folds_N)))
    order = np.argsort(-worst_N, kind="stable")
    return order[worst_N[order] > DEVIATIONS]


def _left_out_scores(kind: type[FittedDetector], tensors: Arrays, folds_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """The score of each row by a detector that was fitted on the other folds."""
    scores_N = np.zeros(len(folds_N))
    given = {name: tensors[name] for name in kind.inputs}
    for fold in np.unique(folds_N).tolist():
        detector = kind.fit({name: array[folds_N != fold] for name, array in given.items()})
        held_out = {name: array[folds_N == fold] for name, array in given.items()}
        parts = [detector(*batch).numpy() for batch in batches_of(held_out, kind.inputs)]
        scores_N[folds_N == fold] = np.concatenate(parts)
    return scores_N


def _deviations(scores_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many robust deviations above the median the logarithms lie; none where half of all are alike."""
    logs_N = np.log(np.maximum(scores_N, SMALLEST_SCORE))
    above_N = logs_N - np.median(logs_N)
    deviation = OF_NORMAL * float(np.median(np.abs(above_N)))
    found: NDArray[np.float64] = above_N / deviation if deviation > 0 else np.zeros(len(scores_N))
    return found


def _named(rows: Rows, found: NDArray[np.int64]) -> str:
    if rows.names_N is None:
        return ""
    names = [str(rows.names_N[row]) for row in found[:MOST_NAMED]]
    return f" ({', '.join(names)}{', ...' if len(found) > MOST_NAMED else ''})"
