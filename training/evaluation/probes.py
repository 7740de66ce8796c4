"""How much of the classes can be read from frozen embeddings. Labels are used here and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

KNN_TEMPERATURE = 0.07  # Wu et al., https://arxiv.org/abs/1805.01978, section 3.4


def linear_probe_accuracy(
    train_ND: NDArray[Any], train_labels_N: NDArray[Any], test_ND: NDArray[Any], test_labels_N: NDArray[Any]
) -> float:
    """Accuracy of multinomial logistic regression on standardised features, 0 to 1."""
    scaler = StandardScaler().fit(train_ND)
    probe = LogisticRegression(C=0.1, max_iter=500, tol=1e-3)
    probe.fit(scaler.transform(train_ND), train_labels_N)
    return float(probe.score(scaler.transform(test_ND), test_labels_N))


def leave_one_group_out_accuracy(embeddings_ND: NDArray[Any], labels_N: NDArray[Any], groups_N: NDArray[Any]) -> float:
    """Mean over groups of the linear probe's accuracy on a group it was not fitted on, 0 to 1.

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
    return float(np.mean(accuracies))


def knn_accuracy(
    train_ND: NDArray[Any],
    train_labels_N: NDArray[Any],
    test_ND: NDArray[Any],
    test_labels_N: NDArray[Any],
    num_neighbours: int = 20,
) -> float:
    """Accuracy of the cosine k-nearest-neighbour vote, weighted exp(similarity / 0.07), 0 to 1."""
    bank = _unit(train_ND)
    queries = _unit(test_ND)
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


def _unit(features_ND: NDArray[Any]) -> NDArray[np.float32]:
    features = features_ND.reshape(len(features_ND), -1).astype(np.float32)
    unit: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit
