"""The figures that count: measured through the exported graphs, on rows that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner
from latentserve.bundle import Evaluation
from latentserve.conformal import p_values
from training.data import Data
from training.evaluation.probes import knn_accuracy, leave_one_group_out_accuracy, linear_probe_accuracy
from training.evaluation.strange import auroc, strange_images

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Measured:
    """Figures for the manifest, and the arrays a report draws.

    Attributes:
        evaluations: one figure each.
        test: what the graphs gave for the test rows.
        p_values: of the test rows, or empty without a detector.
        strange: scores of each strange set, by name.
    """

    evaluations: tuple[Evaluation, ...]
    test: Tensors
    p_values: NDArray[np.float64]
    strange: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def evaluate(
    runner: GraphRunner,
    data: Data,
    train: Tensors,
    calibration: NDArray[np.float32] | None,
    alpha: float,
) -> Measured:
    """Probes where there are labels, reconstruction error where there is a decoder, scores where there are detectors.

    Args:
        runner: of all graphs.
        data: with its test split.
        train: what the graphs gave for the training rows.
        calibration: sorted scores of the deciding detector, or None.
        alpha: level at which false alarms are counted.
    """
    test = runner.run(data.test.values)
    where = f"{data.spec} test"
    found = [Evaluation(name, value, where) for name, value in _probes(data, train, test).items()]
    found += _left_out(data, train, test)
    if "reconstruction" in test:
        error = np.square(data.test.values / np.float32(255) - test["reconstruction"]).mean()
        found.append(Evaluation("reconstruction_mean_squared_error", float(error), where))
    if calibration is None:
        return Measured(tuple(found), test, np.empty(0))
    usual = test["scores"][:, 0]
    p = p_values(usual, calibration)
    found.append(Evaluation(f"share_flagged_at_alpha_{alpha:g}", float((p <= alpha).mean()), where))
    strange = {name: runner.run(images)["scores"][:, 0] for name, images in strange_images(data.test.values).items()}
    for name, scores in strange.items():
        found.append(Evaluation(f"auroc_against_{name}", auroc(usual, scores), where))
    return Measured(tuple(found), test, p, strange)


def _left_out(data: Data, train: Tensors, test: Tensors) -> list[Evaluation]:
    """The probe asked about groups that it was not fitted on, where the data know groups."""
    splits = (data.train, data.test)
    labels: list[Any] = [split.labels_N for split in splits]
    groups: list[Any] = [split.groups_N for split in splits]
    if any(part is None for part in labels + groups):
        return []
    embeddings = np.concatenate([train["embedding"], test["embedding"]])
    value = leave_one_group_out_accuracy(embeddings, np.concatenate(labels), np.concatenate(groups))
    return [Evaluation("leave_one_group_out_accuracy", value, f"{data.spec} train and test, each group left out once")]


def _probes(data: Data, train: Tensors, test: Tensors) -> dict[str, float]:
    labels: Any = data.train.labels_N
    test_labels: Any = data.test.labels_N
    if labels is None or test_labels is None:
        return {}
    arguments = (train["embedding"], labels, test["embedding"], test_labels)
    return {
        "linear_probe_accuracy": linear_probe_accuracy(*arguments),
        "knn_20_accuracy": knn_accuracy(*arguments),
    }
