"""How well each bundle's deciding score tells out-of-distribution (OOD) rows from test rows.

Shape legend: N test rows, M rows of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.comparison.figures import Figure, compared
from export.comparison.intervals import auroc_difference, paired_bootstrap
from export.comparison.rows import Pair
from export.comparison.sides import Side
from export.ood_data import MOST_ROWS, OTHERS, Sample, as_files, check_set, id_rows_of, is_jpeg, ood_set
from export.report.alarms import band_of_test
from latentserve import bundle
from latentserve.conformal import at_most, p_values
from training.data import Data
from training.data.rows import Values
from training.evaluation.ood_sets import CONTROL, known_sets
from training.evaluation.progress import say
from training.evaluation.separation import auroc

LARGEST_BYTES = 2**29
"""Of the test rows that sets are made of; a set and its like in floats come on top."""
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Against:
    """One set.

    Attributes:
        name: of the set.
        num_rows: of it.
        auroc: of the deciding scores.
        flagged: share of the set at alpha.
    """

    name: str
    num_rows: int
    auroc: Figure
    flagged: Figure


@dataclass(frozen=True)
class FalseAlarms:
    """Test rows that a bundle flags.

    Attributes:
        side: A or B.
        detector: that decides.
        num_calibration: its calibration rows.
        share: of the test rows flagged at alpha.
        num_test: test rows.
        band: where 95 % of calibration and test sets of these sizes have it; none if it was calibrated on other data.
    """

    side: str
    detector: str
    num_calibration: int
    share: float
    num_test: int
    band: tuple[float, ...]


@dataclass(frozen=True)
class _Scored:
    """A bundle's deciding scores of its test rows, by the file format they are read in, and what makes more of them."""

    side: Side
    data: Data
    id_rows: Values
    id_scores: dict[str, Scores]
    flags: Callable[[Scores], NDArray[np.float64]]

    def of_set(self, name: str, sample: Sample) -> Scores:
        rows = ood_set(name, self.side.origin, self.id_rows, sample)
        return self.side.scores(as_files(rows, self.data, name))


def check_sets(a: Side, b: Side, data: str, against: Sequence[str]) -> None:
    """Raises ValueError if one of the sets is none for both; nothing is loaded."""
    for name in against:
        for side in (a, b):
            check_set(name, side.origin)
        if name == data:
            raise ValueError(f"against: got {name}, the data that are compared on, expected another set")
        if name == OTHERS and a.origin.data != b.origin.data:
            raise ValueError(
                f"against: got {OTHERS}, which are others for a model of {a.origin.data} than for one of"
                f" {b.origin.data}, expected a set that is one for both"
            )
        trained_on = [side for side in (a, b) if side.origin.data == name]
        if trained_on:
            raise ValueError(f"against: got {name}, which {trained_on[0].label} was trained on, expected other rows")


def check_alpha(a: Side, b: Side, alpha: float) -> None:
    """Raises ValueError if a bundle has too few calibration rows to flag anything at such a level."""
    for side in (a, b):
        smallest = side.manifest.detectors[0].smallest_p_value if side.manifest.detectors else 0.0
        if alpha < smallest:
            raise ValueError(f"alpha: got {alpha:g}, expected at least {smallest:.3g}, {side.label}'s smallest p-value")


def detect(
    a: Side, b: Side, pair: Pair, against: Sequence[str], alpha: float, sample: Sample
) -> tuple[tuple[Against, ...], tuple[FalseAlarms, ...]]:
    """The figures of every set, and the false alarms of either; none where a bundle has no detector."""
    if not (a.manifest.detectors and b.manifest.detectors):
        return (), ()
    names = tuple(dict.fromkeys(against)) or (*known_sets(pair.a.test.values), CONTROL)
    pair = bounded(pair, sample.seed)
    scored_a, scored_b = _scored(a, pair.a, names, alpha), _scored(b, pair.b, names, alpha)
    sets = tuple(_against(name, scored_a, scored_b, sample) for name in names)
    return sets, (_false_alarms(scored_a, alpha), _false_alarms(scored_b, alpha))


def bounded(pair: Pair, seed: int) -> Pair:
    """As many test rows as are held in memory while sets are made of them: as of `export ood`, or fewer large ones."""
    a, b = pair.a, pair.b
    largest = max(int(np.prod(data.test.values.shape[1:])) * data.test.values.dtype.itemsize for data in (a, b))
    most = max(1, min(MOST_ROWS, LARGEST_BYTES // largest))
    if (num := len(a.test)) <= most:
        return pair
    rows = np.sort(np.random.default_rng([seed, num]).permutation(num)[:most])
    return Pair(replace(a, test=a.test.take(rows)), replace(b, test=b.test.take(rows)), pair.notes)


def _scored(side: Side, data: Data, names: Sequence[str], alpha: float) -> _Scored:
    calibration = bundle.load_calibration(side.folder, side.manifest)[side.manifest.detectors[0].name]

    def flags(scores: Scores) -> NDArray[np.float64]:
        return at_most(p_values(scores, calibration), alpha).astype(np.float64)

    id_rows = np.asarray(data.test.values[:])
    id_scores = {kind: side.scores(rows) for kind, rows in id_rows_of(id_rows, data, names)}
    return _Scored(side, data, id_rows, id_scores, flags)


def _against(name: str, a: _Scored, b: _Scored, sample: Sample) -> Against:
    say(f"against {name}")
    kind = "JPEG" if is_jpeg(a.data, name) else ""
    ids = a.id_scores[kind], b.id_scores[kind]
    oods = a.of_set(name, sample), b.of_set(name, sample)
    flags_a, flags_b = a.flags(oods[0]), b.flags(oods[1])
    areas = auroc(ids[0], oods[0]), auroc(ids[1], oods[1])
    shares = float(flags_a.mean()), float(flags_b.mean())
    of_areas, of_shares = auroc_difference(ids, oods), paired_bootstrap(flags_a - flags_b, sample.seed)
    if name == CONTROL:  # of its own kind: near 0.5 is as it should be, for either
        return Against(name, len(oods[0]), Figure("AUROC", *areas, of_areas), Figure("flagged", *shares, of_shares))
    return Against(name, len(oods[0]), compared("AUROC", *areas, of_areas), compared("flagged", *shares, of_shares))


def _false_alarms(one: _Scored, alpha: float) -> FalseAlarms:
    detector, num_test = one.side.manifest.detectors[0], len(one.data.test)
    band = band_of_test(detector.num_calibration_rows, alpha, num_test) if one.side.origin.data == one.data.spec else ()
    share = float(one.flags(one.id_scores[""]).mean())
    return FalseAlarms(one.side.label, detector.name, detector.num_calibration_rows, share, num_test, band)
