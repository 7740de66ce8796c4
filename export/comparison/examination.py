"""Everything that is compared, as one record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.comparison.alignment import NUM_NEIGHBOURS, debiased_cka, linear_cka, neighbours_kept
from export.comparison.cost import costs
from export.comparison.detection import Against, FalseAlarms, check_alpha, check_sets, detect
from export.comparison.figures import Figure
from export.comparison.intervals import paired_bootstrap
from export.comparison.probing import Embedded, probe
from export.comparison.rows import Pair, load_pair
from export.comparison.sides import Side, open_sides
from export.ood_data import Sample
from latentserve.inputs import ImageInput
from training.data import Data
from training.data.loading import check_spec
from training.evaluation.progress import say
from training.evaluation.report import has_classes


@dataclass(frozen=True)
class Compared:
    """One of the two bundles.

    Attributes:
        name: and version.
        method: how it was made.
        trained_on: spec of its data.
        input: what a row is.
        dim: numbers of an embedding.
        embedding_space: of its encoder.
    """

    name: str
    method: str
    trained_on: str
    input: str
    dim: int
    embedding_space: str


@dataclass(frozen=True)
class Alignment:
    """How alike the embeddings of the test rows are.

    Attributes:
        cka: linear; None where it is none (an embedding that is the same for all rows).
        debiased_cka: without what few rows add.
        neighbours_kept: share of the nearest other rows that are nearest in both.
        chance: what it is of rankings that have nothing in common.
        interval: 95 % confidence interval of the share.
        num_neighbours: of each row.
    """

    cka: float | None
    debiased_cka: float | None
    neighbours_kept: float
    chance: float
    interval: tuple[float, ...]
    num_neighbours: int


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        a: one bundle.
        b: the other.
        data: spec.
        num_train: training rows, which fitted probes.
        num_test: test rows, which figures are of.
        alpha: at which rows are flagged.
        seed: of draws and sets.
        notes: what a reader must know, a sentence each.
        classes: accuracies; none without labels.
        alignment: of the embeddings.
        sets: out-of-distribution sets; none if a bundle has no detector.
        false_alarms: of A, of B.
        costs: of a row.
    """

    a: Compared
    b: Compared
    data: str
    num_train: int
    num_test: int
    alpha: float
    seed: int
    notes: tuple[str, ...]
    classes: tuple[Figure, ...]
    alignment: Alignment
    sets: tuple[Against, ...]
    false_alarms: tuple[FalseAlarms, ...]
    costs: tuple[Figure, ...]


@dataclass(frozen=True)
class Choices:
    """What is compared on.

    Attributes:
        data: spec; None: what A was trained on.
        against: names of out-of-distribution sets; none: all that are made of the test rows, and the control.
        rows: training rows, test rows, and rows of a set at most.
        alpha: at which rows are flagged; None: A's default.
        seed: of draws and sets.
    """

    data: str | None = None
    against: tuple[str, ...] = field(default=())
    rows: int = 10_000
    alpha: float | None = None
    seed: int = 0


def compare(folder_a: Path, folder_b: Path, choices: Choices) -> Comparison:
    """All figures; neither bundle is changed.

    Raises:
        BundleError: one is no bundle, or they take rows of different kinds.
        RunError: what one was made of is not known, or changed.
        DataError: the data cannot be loaded, or are too few.
        ValueError: no such out-of-distribution set.
    """
    a, b = open_sides(folder_a, folder_b)
    spec = a.origin.data if choices.data is None else choices.data
    check_spec(spec)
    check_sets(a, b, spec, choices.against)
    alpha = choices.alpha or a.manifest.default_alpha or b.manifest.default_alpha
    check_alpha(a, b, alpha)
    pair = load_pair(a, b, spec, choices.rows, choices.seed)
    embedded_a, embedded_b = _embedded(a, pair.a), _embedded(b, pair.b)
    say("probes")
    classes = probe(embedded_a, embedded_b, pair.a, choices.seed)
    alignment = _alignment(embedded_a, embedded_b, choices.seed)
    sets, false_alarms = detect(a, b, pair, choices.against, alpha, Sample(choices.rows, choices.seed))
    say("times")
    return Comparison(
        a=_compared(a),
        b=_compared(b),
        data=spec,
        num_train=len(pair.a.train),
        num_test=len(pair.a.test),
        alpha=alpha,
        seed=choices.seed,
        notes=(*pair.notes, *_left_out(a, b, pair, choices.against)),
        classes=classes,
        alignment=alignment,
        sets=sets,
        false_alarms=false_alarms,
        costs=costs(a, b, pair.a.test.values, pair.b.test.values),
    )


def _embedded(side: Side, data: Data) -> Embedded:
    """Training rows only where probes are fitted on them."""
    say(f"embeddings of {side.label}, {side.name}")
    train = data.train.values[: None if has_classes(data) else 0]
    return Embedded(
        side.embeddings(train) if len(train) else np.empty((0, side.dim), np.float32), side.embeddings(data.test.values)
    )


def _alignment(a: Embedded, b: Embedded, seed: int) -> Alignment:
    num_neighbours = min(NUM_NEIGHBOURS, len(a.test_ND) - 2)
    kept_N = neighbours_kept(a.test_ND, b.test_ND, num_neighbours)
    return Alignment(
        cka=_number(linear_cka(a.test_ND, b.test_ND)),
        debiased_cka=_number(debiased_cka(a.test_ND, b.test_ND)),
        neighbours_kept=float(kept_N.mean()),
        chance=num_neighbours / (len(kept_N) - 1),
        interval=paired_bootstrap(kept_N, seed),
        num_neighbours=num_neighbours,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _left_out(a: Side, b: Side, pair: Pair, against: Sequence[str]) -> Iterator[str]:
    if not has_classes(pair.a):
        yield "The data have no labels, so that probes are left out"
    for side in (a, b):
        if not side.manifest.detectors:
            yield f"{side.label} has no calibrated detector, so that out-of-distribution sets are left out"
            if against:
                yield f"Nothing was compared on {', '.join(against)}"
    if (alphas := {side.manifest.default_alpha for side in (a, b) if side.manifest.detectors}) and len(alphas) > 1:
        yield f"Their own levels differ (A: {a.manifest.default_alpha:g}, B: {b.manifest.default_alpha:g})"


def _compared(side: Side) -> Compared:
    given, provenance = side.manifest.input, side.manifest.provenance
    if isinstance(given, ImageInput):
        what = f"{given.width} x {given.height} {'grey' if given.channels == 1 else 'colour'}"
    else:
        what = f"{given.num_samples / given.sample_rate_hz:.3g} s at {given.sample_rate_hz:,} Hz"
    return Compared(side.name, provenance.method, provenance.data, what, side.dim, side.manifest.embedding_space)
