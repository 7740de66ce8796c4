"""The evaluation report of an encoder: every figure by one function, whatever computes the embeddings.

`evaluation_report` takes `encode`, so that a torch model, an exported graph and a baseline are measured alike and
differ in nothing else. It sees the embeddings of the training and the test split; labels train probes and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from training.data import Data, ImageShape, Rows
from training.data.lazy import changed_rows, held, is_lazy, rows_within
from training.data.rows import Values
from training.evaluation.baselines import Encode
from training.evaluation.clusters import cluster_agreement
from training.evaluation.composition import composition_accuracies
from training.evaluation.corruptions import CORRUPTIONS, corrupted
from training.evaluation.disentanglement import disentanglement
from training.evaluation.equivariance import equivariance, invariance
from training.evaluation.probes import (
    Features,
    Labels,
    fit_linear_probe,
    knn_accuracy,
    labels_curve,
    leave_one_group_out_accuracies,
    linear_probe_accuracy,
)
from training.evaluation.transforms import GENERATORS

Part = Literal["probes", "groups", "labels", "clusters", "robustness", "equivariance", "composition", "disentanglement"]
PARTS: tuple[Part, ...] = get_args(Part)
EVALUATION = "evaluation.json"
"""File of a run or a bundle that holds its `EvaluationReport`."""
CORRUPTED_BYTES = 2**25
"""Of pixels that are corrupted, of sets that memory should not hold; some corruptions make sixteen times as much."""
METHOD = "embedding"
"""The `features` of the encoder's own figures; those of a baseline have its name."""


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        name: what was measured.
        value: the figure, or the mean over draws, seeds or factors.
        data: what it was measured on.
        standard_deviation: over the draws, seeds or factors, or None where there is but one.
        features: whose: `embedding`, or the name of a baseline.
    """

    name: str
    value: float
    data: str
    standard_deviation: float | None = None
    features: str = METHOD


@dataclass(frozen=True)
class ReportConfig:
    """How much is measured.

    Attributes:
        parts: which figures.
        num_draws: draws of labels, seeds of clusterings.
        per_class: labels per class of the labels curve, up to those of the largest class.
        shares: shares of all labels, below 1.
        moved_rows: training rows, and a quarter of them test rows, for equivariance.
        corrupted_rows: test rows for robustness.
    """

    parts: tuple[Part, ...] = PARTS
    num_draws: int = 5
    per_class: tuple[int, ...] = (1, 10, 100)
    shares: tuple[float, ...] = (0.01, 0.1)
    moved_rows: int = 4000
    corrupted_rows: int = 5000


FULL = ReportConfig()
QUICK = ReportConfig(num_draws=3, moved_rows=1000, corrupted_rows=1000)
"""What every export measures: seconds for a few hundred photos, minutes for MNIST."""


@dataclass(frozen=True)
class EvaluationReport:
    """What evaluation.json holds.

    Attributes:
        measured_through: `torch`, or the ONNX graph's file.
        encoder_sha256: of the weights, the same before and after, or of the graph's file.
        seconds: wall-clock of all of it.
        metrics: the figures.
    """

    measured_through: str
    encoder_sha256: str
    seconds: float
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class _Splits:
    """What was encoded once, and what it was encoded from."""

    encode: Encode
    data: Data
    train_ND: NDArray[np.float32]
    test_ND: NDArray[np.float32]

    @property
    def labelled(self) -> tuple[Features, Labels, Features, Labels]:
        """Training features and labels, test features and labels."""
        assert self.data.train.labels_N is not None
        assert self.data.test.labels_N is not None
        return self.train_ND, self.data.train.labels_N, self.test_ND, self.data.test.labels_N


def evaluation_report(
    encode: Encode,
    data: Data,
    config: ReportConfig = FULL,
    features: str = METHOD,
    transfer: Data | None = None,
    latent: Encode | None = None,
) -> list[Metric]:
    """Every figure that the data allows: without labels equivariance alone is left.

    Args:
        encode: rows to embeddings; must not learn from them.
        data: with training and test split.
        config: which figures, and how much of the data they take.
        features: whose figures they are.
        transfer: another data set of the same shape, on which the encoder was not trained.
        latent: rows to latents [N, L], where there are any: what disentanglement is measured on.
    """
    splits = _Splits(encode, data, encode(data.train.values), encode(data.test.values))
    metrics: list[Metric] = []
    if has_classes(data):
        metrics += _labelled_metrics(splits, config)
    if "equivariance" in config.parts and isinstance(data.shape, ImageShape):
        metrics += _moved_metrics(splits, config.moved_rows)
    if "disentanglement" in config.parts and latent is not None and data.test.factors_NF is not None:
        figures = disentanglement(latent(data.test.values), data.test.factors_NF)
        metrics += [_metric(name, [value], data) for name, value in figures.items()]
    if transfer is not None and has_classes(transfer):
        other = _Splits(encode, transfer, encode(transfer.train.values), encode(transfer.test.values))
        metrics.append(_metric("linear_probe_accuracy", [linear_probe_accuracy(*other.labelled)], transfer))
        metrics.append(_metric("knn_20_accuracy", [knn_accuracy(*other.labelled)], transfer))
    return [Metric(metric.name, metric.value, metric.data, metric.standard_deviation, features) for metric in metrics]


def has_classes(data: Data) -> bool:
    """Whether there is something to probe for: labels, of two classes or more."""
    labels = data.train.labels_N
    return labels is not None and data.test.labels_N is not None and len(np.unique(labels)) > 1


def _labelled_metrics(splits: _Splits, config: ReportConfig) -> Iterator[Metric]:
    data = splits.data
    probe = fit_linear_probe(*splits.labelled[:2]) if {"probes", "robustness"} & set(config.parts) else None
    if "probes" in config.parts and probe is not None:
        yield _metric("linear_probe_accuracy", [float(probe.score(*splits.labelled[2:]))], data)
        yield _metric("knn_20_accuracy", [knn_accuracy(*splits.labelled)], data)
    if "groups" in config.parts:
        yield from _group_metrics(splits)
    if "labels" in config.parts:
        most = np.unique(splits.labelled[1], return_counts=True)[1].max()
        for per_class in (*(num for num in config.per_class if num <= most), *config.shares):
            accuracies = labels_curve(*splits.labelled, per_class, config.num_draws)
            yield _metric(labels_name(per_class), accuracies, data)
    if "clusters" in config.parts:
        agreement = cluster_agreement(*splits.labelled[2:], config.num_draws)
        for name, values in agreement.items():
            yield _metric(f"clusters_{name}", values, data)
    if "robustness" in config.parts and probe is not None and isinstance(data.shape, ImageShape):
        yield from _robustness_metrics(splits, probe, config.corrupted_rows)
    if "composition" in config.parts:
        yield from _composition_metrics(splits)


def _group_metrics(splits: _Splits) -> Iterator[Metric]:
    """The probe is evaluated on groups (speakers) that it was not fitted on. Labels of both splits are used."""
    data = splits.data
    if data.train.groups_N is None or data.test.groups_N is None:
        return
    groups_N = np.concatenate([data.train.groups_N, data.test.groups_N])
    if len(np.unique(groups_N)) < 2:
        return
    train_ND, train_labels_N, test_ND, test_labels_N = splits.labelled
    accuracies = leave_one_group_out_accuracies(
        np.concatenate([train_ND, test_ND]), np.concatenate([train_labels_N, test_labels_N]), groups_N
    )
    yield _metric("leave_one_group_out_accuracy", accuracies, data)


def labels_name(per_class: int | float) -> str:
    """Name of a point of the labels curve."""
    if per_class < 1:
        return f"labels_{per_class * 100:g}_percent_accuracy"
    return f"labels_{per_class}_per_class_accuracy"


def _robustness_metrics(splits: _Splits, probe: Pipeline, num_rows: int) -> Iterator[Metric]:
    test = some_rows(splits.data.test, _most(splits.data.test, num_rows))
    test = replace(test, values=np.asarray(test.values))
    accuracies = [
        float(probe.score(splits.encode(corrupted(name, test.values)), test.labels_N)) for name in CORRUPTIONS
    ]
    for name, accuracy in zip(CORRUPTIONS, accuracies, strict=True):
        yield _metric(f"accuracy_under_{name}", [accuracy], splits.data)
    yield _metric("accuracy_under_corruption", [float(np.mean(accuracies))], splits.data)


def _moved_metrics(splits: _Splits, num_rows: int) -> Iterator[Metric]:
    train = held(some_rows(splits.data.train, num_rows).values)
    test = held(some_rows(splits.data.test, max(1, num_rows // 4)).values)
    train_ND, test_ND = splits.encode(train), splits.encode(test)
    for name, change in GENERATORS.items():
        train_moved_ND, test_moved_ND = (splits.encode(changed_rows(rows, change)) for rows in (train, test))
        lawful = equivariance(train_ND, train_moved_ND, test_ND, test_moved_ND)
        yield _metric(f"equivariance_{name}", [lawful], splits.data)
        yield _metric(f"invariance_{name}", [invariance(test_ND, test_moved_ND)], splits.data)


def _composition_metrics(splits: _Splits) -> Iterator[Metric]:
    train, test = splits.data.train, splits.data.test
    if train.factors_NF is None or test.factors_NF is None:
        return
    train_ND, train_labels_N, test_ND, test_labels_N = splits.labelled
    accuracies = composition_accuracies(
        train_ND, train_labels_N, train.factors_NF, test_ND, test_labels_N, test.factors_NF
    )
    if len(accuracies):
        yield _metric("unseen_combinations_accuracy", accuracies, splits.data)


def _most(rows: Rows, num_rows: int) -> int:
    """So many rows, or as many as are corrupted in memory, if they do not lie there."""
    return min(num_rows, rows_within(rows.values, CORRUPTED_BYTES)) if is_lazy(rows.values) else num_rows


def some_rows(rows: Rows, num_rows: int) -> Rows:
    """So many rows drawn at random, the same ones each time; all of them if there are no more."""
    order = np.random.default_rng([0, len(rows)]).permutation(len(rows))
    return rows if num_rows >= len(rows) else rows.take(np.sort(order[:num_rows]))


def _metric(name: str, values: Sequence[float] | NDArray[np.float64], data: Data) -> Metric:
    standard_deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Metric(name, float(np.mean(values)), f"{data.spec} test", standard_deviation)


def remembering(encode: Encode, *known: tuple[Values, NDArray[np.float32]]) -> Encode:
    """An `encode` that does not compute again what is known for these very arrays."""

    def encode_unless_known(rows: Values) -> NDArray[np.float32]:
        for array, embeddings in known:
            if rows is array:
                return embeddings
        return encode(rows)

    return encode_unless_known
