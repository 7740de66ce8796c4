"""The figures that count: measured through the exported graphs, on rows that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner, Tensors
from latentserve.bundle import Evaluation
from latentserve.conformal import at_most, p_values
from training.data import Data
from training.data.lazy import batch_rows, is_lazy, parts_of, rows_within
from training.data.rows import Values
from training.evaluation.ood_sets import QUICK_SETS, known_sets, ood_rows
from training.evaluation.report import METHOD, Metric
from training.evaluation.separation import auroc

OOD_BYTES = 2**27
"""Of test rows that sets are made of, if memory should not hold all of them."""
NUM_TRAVERSED = 6
TRAVERSAL_STEPS = 9
TRAVERSAL_REACH = 2.5  # standard deviations of a latent over the test rows


@dataclass(frozen=True)
class Measured:
    """Figures for the manifest, and the arrays a report draws.

    Attributes:
        evaluations: one figure each, the encoder's own.
        metrics: the evaluation report, baselines included.
        train: outputs of the graphs for the training rows.
        test: outputs of the graphs for the test rows.
        p_values: of the test rows, or empty without a detector.
        ood: scores of each out-of-distribution set, by name.
        spared: a sentence on detectors that were left out of the score, or nothing.
    """

    evaluations: tuple[Evaluation, ...]
    metrics: tuple[Metric, ...]
    train: Tensors
    test: Tensors
    p_values: NDArray[np.float64]
    ood: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    spared: str = ""


def measure(
    runner: GraphRunner,
    data: Data,
    train: Tensors,
    test: Tensors,
    metrics: Sequence[Metric],
    calibration: NDArray[np.float32] | None,
    alpha: float,
) -> Measured:
    """Adds to the evaluation report: reconstruction error where there is a decoder, scores where there are detectors.

    Args:
        runner: of all graphs.
        data: with its test split.
        train: outputs of the graphs for the training rows.
        test: and for the test rows.
        metrics: the evaluation report.
        calibration: sorted scores of the deciding detector, or None.
        alpha: level at which false alarms are counted.
    """
    where = f"{data.spec} test"
    found = [Evaluation(metric.name, metric.value, metric.data) for metric in metrics if metric.features == METHOD]
    if "reconstruction" in test:
        error = _squared_error(data.test.values, test["reconstruction"])
        found.append(Evaluation("reconstruction_mean_squared_error", float(error), where))
    if calibration is None:
        return Measured(tuple(found), tuple(metrics), train, test, np.empty(0))
    id_scores = test["scores"][:, 0]
    p = p_values(id_scores, calibration)
    found.append(Evaluation(f"share_flagged_at_alpha_{alpha:g}", float(at_most(p, alpha).mean()), where))
    sets = [name for name in known_sets(data.test.values) if name in QUICK_SETS]
    rows = of_memory(data.test.values)
    ood = {name: runner.run(ood_rows(name, rows))["scores"][:, 0] for name in sets}
    for name, scores in ood.items():
        found.append(Evaluation(f"auroc_against_{name}", auroc(id_scores, scores), where))
    return Measured(tuple(found), tuple(metrics), train, test, p, ood)


def of_memory(rows: Values) -> Values:
    """The rows, or as many of them in memory as sets are made of, evenly drawn, if memory should not hold all."""
    most = rows_within(rows, OOD_BYTES) if is_lazy(rows) else len(rows)
    return np.asarray(rows[:: -(-len(rows) // most)])


def _squared_error(rows: Values, reconstruction: NDArray[np.float32]) -> float:
    """The mean over all pixels of all rows."""
    if not is_lazy(rows):
        return float(np.square(rows / np.float32(255) - reconstruction).mean())
    num_rows = batch_rows(rows)
    pairs = zip(parts_of(rows, num_rows), parts_of(reconstruction, num_rows), strict=True)
    total = sum(np.square(part / np.float32(255) - other).sum(dtype=np.float64) for part, other in pairs)
    return float(total / rows.nbytes)


def traversals(runner: GraphRunner, latent_NL: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Decodes the first row while one latent moves and the others stay, for the latents that vary most.

    Returns:
        For each such latent its images [steps, H, W, C], from low to high.
    """
    deviation_L = latent_NL.std(axis=0)
    steps = np.linspace(-TRAVERSAL_REACH, TRAVERSAL_REACH, TRAVERSAL_STEPS, dtype=np.float32)
    decoded = []
    for latent in np.argsort(-deviation_L, kind="stable")[:NUM_TRAVERSED]:
        moved = np.repeat(latent_NL[:1], TRAVERSAL_STEPS, axis=0)
        moved[:, latent] = latent_NL[:, latent].mean() + steps * deviation_L[latent]
        decoded.append(runner.decode(moved))
    return decoded
