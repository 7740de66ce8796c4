"""How much of the classes can be read from frozen embeddings. Labels are used here and nowhere else.

Shape legend: N rows, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

KNN_TEMPERATURE = 0.07  # Wu et al., https://arxiv.org/abs/1805.01978, section 3.4
INVERSE_L2 = 0.1  # scikit-learn's C, on standardised features; one value for every method, floor and number of labels


def fit_linear_probe(train_ND: NDArray[Any], train_labels_N: NDArray[Any]) -> Pipeline:
    """Multinomial logistic regression with L2 on standardised features; its `score` is the accuracy, 0 to 1."""
    probe = make_pipeline(StandardScaler(), logistic_regression())
    return probe.fit(train_ND, train_labels_N)


def logistic_regression() -> LogisticRegression:
    """The classifier of every probe, for features that are standardised already."""
    return LogisticRegression(C=INVERSE_L2, max_iter=500, tol=1e-3)


def linear_probe_accuracy(
    train_ND: NDArray[Any], train_labels_N: NDArray[Any], test_ND: NDArray[Any], test_labels_N: NDArray[Any]
) -> float:
    """Accuracy of the linear probe, 0 to 1."""
    return float(fit_linear_probe(train_ND, train_labels_N).score(test_ND, test_labels_N))


def leave_one_group_out_accuracies(
    embeddings_ND: NDArray[Any], labels_N: NDArray[Any], groups_N: NDArray[Any]
) -> NDArray[np.float64]:
    """The linear probe's accuracy on each group, fitted on the others, 0 to 1.

    With groups = speakers: whether what is said can be read from a voice that the probe never heard.

    Raises:
        ValueError: there are fewer than two groups.
    """
    groups = np.unique(groups_N)
    if len(groups) < 2:
        raise ValueError(f"groups_N: got {len(groups)} group, expected at least 2")
    accuracies = [
        linear_probe_accuracy(
            embeddings_ND[groups_N != group],
            labels_N[groups_N != group],
            embeddings_ND[groups_N == group],
            labels_N[groups_N == group],
        )
        for group in groups
    ]
    return np.array(accuracies)


def knn_accuracy(
    train_ND: NDArray[Any],
    train_labels_N: NDArray[Any],
    test_ND: NDArray[Any],
    test_labels_N: NDArray[Any],
    num_neighbours: int = 20,
) -> float:
    """Accuracy of the cosine k-nearest-neighbour vote, weighted exp(similarity / 0.07), 0 to 1."""
    bank = unit_rows(train_ND)
    queries = unit_rows(test_ND)
    num_neighbours = min(num_neighbours, len(bank))
    votes_for = np.eye(int(train_labels_N.max()) + 1, dtype=np.float32)[train_labels_N]
    right = 0
    for start in range(0, len(queries), 500):
        similarity = queries[start : start + 500] @ bank.T
        nearest = np.argpartition(-similarity, num_neighbours - 1, axis=1)[:, :num_neighbours]
        weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / KNN_TEMPERATURE)
        votes = np.einsum("nk,nkc->nc", weight, votes_for[nearest])
        right += int((votes.argmax(axis=1) == test_labels_N[start : start + 500]).sum())
    return right / len(queries)


def nearest_rows(bank_ND: NDArray[Any], queries_ND: NDArray[Any], num_neighbours: int) -> NDArray[np.int64]:
    """The rows of the bank nearest to each query by cosine, nearest first, [queries, num_neighbours]."""
    similarity = unit_rows(queries_ND) @ unit_rows(bank_ND).T
    nearest: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbours]
    return nearest


def labels_curve(
    train_ND: NDArray[Any],
    train_labels_N: NDArray[Any],
    test_ND: NDArray[Any],
    test_labels_N: NDArray[Any],
    per_class: int | float,
    num_draws: int,
) -> NDArray[np.float64]:
    """Accuracy of the linear probe with few labels, one figure for each draw of them, 0 to 1.

    The features are standardised with all training rows: that needs no label.

    Args:
        train_ND: features of all training rows.
        train_labels_N: their classes, of which only the drawn ones are used.
        test_ND: features of all test rows.
        test_labels_N: their classes.
        per_class: how many labels of each class, or below 1 which share of them; at least one is drawn.
        num_draws: seeded 0, 1, ...
    """
    scaler = StandardScaler().fit(train_ND)
    train, test = scaler.transform(train_ND), scaler.transform(test_ND)
    accuracies = []
    for draw in range(num_draws):
        rows = draw_per_class(train_labels_N, per_class, seed=draw)
        probe = logistic_regression().fit(train[rows], train_labels_N[rows])
        accuracies.append(float(probe.score(test, test_labels_N)))
    return np.array(accuracies)


def draw_per_class(labels_N: NDArray[Any], per_class: int | float, seed: int) -> NDArray[np.int64]:
    """Rows of so many labels (or, below 1, of that share of the labels) of each class, at least one."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in np.unique(labels_N):
        of_class = rng.permutation(np.flatnonzero(labels_N == label))
        num = round(per_class * len(of_class)) if per_class < 1 else int(per_class)
        rows.append(of_class[: max(1, num)])
    return np.sort(np.concatenate(rows))


def unit_rows(features_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Each row divided by its length."""
    features = features_ND.reshape(len(features_ND), -1).astype(np.float32)
    unit: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit
