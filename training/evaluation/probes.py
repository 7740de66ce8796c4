"""How much of the classes can be read from frozen embeddings. Labels are used here and nowhere else.

Shape legend: N rows, D features, K classes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data.units import count, drawn, equal_rows

Features = NDArray[np.floating]
Labels = NDArray[np.integer]

KNN_TEMPERATURE = 0.07  # Wu et al., https://arxiv.org/abs/1805.01978, section 3.4
INVERSE_L2S = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What a probe may choose from: scikit-learn's C, on standardised features."""
FEW_LABELS_INVERSE_L2 = 1e-1
"""Where there is nothing to choose by: few labels, or test rows of a kind that no training row is of."""
TOLERANCE, TOLERANCE_TO_CHOOSE = 1e-5, 1e-4
"""Of the gradient. At 1e-3 L-BFGS stopped after a dozen steps on 55,000 rows of MNIST, 0.3 % below where it ends."""
HELD_OUT_SHARE, HELD_OUT_ROWS, FEWEST_HELD_OUT_ROWS = 0.1, 1000, 100


def fit_linear_probe(train_ND: Features, train_labels_N: Labels, inverse_l2: float | None = None) -> Pipeline:
    """Multinomial logistic regression with L2 on standardised features; its `score` is the accuracy, 0 to 1.

    Args:
        train_ND: features of the training rows.
        train_labels_N: their classes.
        inverse_l2: C; None: the one of `INVERSE_L2S` that does best on training rows that were held out for it. The
            probe is then fitted on all of them.
    """
    scaler = StandardScaler().fit(train_ND)
    features_ND = scaler.transform(train_ND)
    probe = logistic_regression(inverse_l2) if inverse_l2 else chosen_probe(features_ND, train_labels_N)
    return make_pipeline(scaler, probe.fit(features_ND, train_labels_N))


def choose_inverse_l2(features_ND: Features, labels_N: Labels) -> float:
    """The C of `chosen_probe`."""
    return float(chosen_probe(features_ND, labels_N).C)


def chosen_probe(features_ND: Features, labels_N: Labels) -> LogisticRegression:
    """The C that does best on a tenth of the rows (1,000 at least, half at most), fitted on others that equal none.

    From strong to weak, each starting from the one before, until a weaker one does worse; of equals the strongest.
    Where too few rows could be held out to tell: `FEW_LABELS_INVERSE_L2`.

    Returns:
        A classifier to be fitted on all rows, which starts where the best one ended if that knew all classes.
    """
    units_N = equal_rows(features_ND)
    num = count(units_N, len(labels_N))
    num_held_out = min(max(int(HELD_OUT_SHARE * num), HELD_OUT_ROWS), num // 2)
    held_out, fitted = drawn(units_N, np.random.default_rng(0).permutation(len(labels_N)), num_held_out)
    best, best_accuracy = logistic_regression(FEW_LABELS_INVERSE_L2), -1.0
    if len(held_out) < FEWEST_HELD_OUT_ROWS or len(np.unique(labels_N[fitted])) < 2:
        return best
    probe = logistic_regression(FEW_LABELS_INVERSE_L2).set_params(tol=TOLERANCE_TO_CHOOSE, warm_start=True)
    for inverse_l2 in INVERSE_L2S:
        probe.set_params(C=inverse_l2).fit(features_ND[fitted], labels_N[fitted])
        accuracy = float(probe.score(features_ND[held_out], labels_N[held_out]))
        if accuracy < best_accuracy:
            break
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(probe), accuracy
    knows_all = len(best.classes_) == len(np.unique(labels_N))
    return best.set_params(tol=TOLERANCE, warm_start=knows_all)


def logistic_regression(inverse_l2: float) -> LogisticRegression:
    """The classifier of every probe, for features that are standardised already.

    Newton's method with conjugate gradients: features of an encoder are much alike, and of those L-BFGS, which ends at
    the same weights, needs hundreds of steps.
    """
    return LogisticRegression(C=inverse_l2, max_iter=5000, tol=TOLERANCE, solver="newton-cg")


def linear_probe_accuracy(
    train_ND: Features,
    train_labels_N: Labels,
    test_ND: Features,
    test_labels_N: Labels,
    inverse_l2: float | None = None,
) -> float:
    """Accuracy of the linear probe, 0 to 1; see `fit_linear_probe`."""
    return float(fit_linear_probe(train_ND, train_labels_N, inverse_l2).score(test_ND, test_labels_N))


def leave_one_group_out_accuracies(embeddings_ND: Features, labels_N: Labels, groups_N: Labels) -> NDArray[np.float64]:
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
            FEW_LABELS_INVERSE_L2,
        )
        for group in groups
    ]
    return np.array(accuracies)


def knn_accuracy(
    train_ND: Features,
    train_labels_N: Labels,
    test_ND: Features,
    test_labels_N: Labels,
    num_neighbours: int = 20,
) -> float:
    """Accuracy of the cosine k-nearest-neighbour vote, weighted exp(similarity / 0.07), 0 to 1."""
    voted_N = knn_labels(train_ND, train_labels_N, test_ND, num_neighbours)
    return int((voted_N == test_labels_N).sum()) / len(test_ND)


def knn_labels(
    train_ND: Features, train_labels_N: Labels, test_ND: Features, num_neighbours: int = 20
) -> NDArray[np.int64]:
    """The class that each test row's neighbours vote for: see `knn_accuracy`."""
    bank = unit_rows(train_ND)
    queries = unit_rows(test_ND)
    num_neighbours = min(num_neighbours, len(bank))
    votes_for = np.eye(int(train_labels_N.max()) + 1, dtype=np.float32)[train_labels_N]
    voted = []
    for start in range(0, len(queries), 500):
        similarity = torch.from_numpy(queries[start : start + 500] @ bank.T)
        closest, nearest = torch.topk(similarity, num_neighbours, dim=1)
        weight = np.exp(closest.numpy() / KNN_TEMPERATURE)
        votes = np.einsum("nk,nkc->nc", weight, votes_for[nearest.numpy()])
        voted.append(votes.argmax(axis=1))
    return np.concatenate(voted)


def nearest_rows(bank_ND: Features, queries_ND: Features, num_neighbours: int) -> NDArray[np.int64]:
    """The rows of the bank nearest to each query by cosine, nearest first, [queries, num_neighbours]."""
    similarity = unit_rows(queries_ND) @ unit_rows(bank_ND).T
    nearest: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbours]
    return nearest


def labels_curve(
    train_ND: Features,
    train_labels_N: Labels,
    test_ND: Features,
    test_labels_N: Labels,
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
        probe = logistic_regression(FEW_LABELS_INVERSE_L2).fit(train[rows], train_labels_N[rows])
        accuracies.append(float(probe.score(test, test_labels_N)))
    return np.array(accuracies)


def draw_per_class(labels_N: Labels, per_class: int | float, seed: int) -> NDArray[np.int64]:
    """Rows of so many labels (or, below 1, of that share of the labels) of each class, at least one."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in np.unique(labels_N):
        of_class = rng.permutation(np.flatnonzero(labels_N == label))
        num = round(per_class * len(of_class)) if per_class < 1 else int(per_class)
        rows.append(of_class[: max(1, num)])
    return np.sort(np.concatenate(rows))


def unit_rows(features_ND: Features) -> NDArray[np.float32]:
    """Each row divided by its length."""
    features = features_ND.reshape(len(features_ND), -1).astype(np.float32)
    unit: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit
