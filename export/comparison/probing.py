"""How much of the classes can be read from each embedding, by the probes of the evaluation report.

Shape legend: N test rows, R draws of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from export.comparison.figures import Figure, compared
from export.comparison.intervals import paired_bootstrap
from training.data import Data
from training.evaluation.probes import (
    FEW_LABELS_INVERSE_L2,
    Labels,
    draw_per_class,
    fit_linear_probe,
    knn_labels,
    logistic_regression,
)
from training.evaluation.report import has_classes

FEW_LABELS, NUM_DRAWS = 10, 5
"""Of the labels curve: labels a class, and how often they are drawn."""
LINEAR, KNN = "linear probe accuracy", "kNN-20 accuracy"
FEW = f"linear probe accuracy, {FEW_LABELS} labels a class"


@dataclass(frozen=True)
class Embedded:
    """The embeddings of one bundle.

    Attributes:
        train_ND: of the training rows.
        test_ND: of the test rows.
    """

    train_ND: NDArray[np.float32]
    test_ND: NDArray[np.float32]


def probe(a: Embedded, b: Embedded, data: Data, seed: int = 0) -> tuple[Figure, ...]:
    """Accuracies, 0 to 1, and the intervals of their differences over the same test rows; none without classes."""
    if not has_classes(data):
        return ()
    assert data.train.labels_N is not None
    assert data.test.labels_N is not None
    labels = data.train.labels_N, data.test.labels_N
    right_a, right_b = (right(embedded, *labels) for embedded in (a, b))
    return tuple(
        compared(name, float(a_RN.mean()), float(b_RN.mean()), paired_bootstrap(a_RN - b_RN, seed))
        for (name, a_RN), b_RN in zip(right_a.items(), right_b.values(), strict=True)
    )


def right(embedded: Embedded, train_labels_N: Labels, test_labels_N: Labels) -> dict[str, NDArray[np.float64]]:
    """Which test rows each probe gets right, 0 or 1, [R, N]; the draws of labels are the same for every embedding."""
    train_ND, test_ND = embedded.train_ND, embedded.test_ND
    predicted = {
        LINEAR: [fit_linear_probe(train_ND, train_labels_N).predict(test_ND)],
        KNN: [knn_labels(train_ND, train_labels_N, test_ND)],
    }
    if np.unique(train_labels_N, return_counts=True)[1].max() > FEW_LABELS:
        scaler = StandardScaler().fit(train_ND)
        train, test = scaler.transform(train_ND), scaler.transform(test_ND)
        draws = [draw_per_class(train_labels_N, FEW_LABELS, seed) for seed in range(NUM_DRAWS)]
        predicted[FEW] = [
            logistic_regression(FEW_LABELS_INVERSE_L2).fit(train[rows], train_labels_N[rows]).predict(test)
            for rows in draws
        ]
    return {name: (np.stack(of_draws) == test_labels_N).astype(np.float64) for name, of_draws in predicted.items()}
