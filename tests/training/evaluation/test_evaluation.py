from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from training.evaluation.clusters import cluster_agreement
from training.evaluation.composition import composition_accuracies, held_out_combinations
from training.evaluation.probes import (
    FEW_LABELS_INVERSE_L2,
    INVERSE_L2S,
    KNN_TEMPERATURE,
    choose_inverse_l2,
    draw_per_class,
    fit_linear_probe,
    knn_accuracy,
    labels_curve,
    leave_one_group_out_accuracies,
    linear_probe_accuracy,
    nearest_rows,
)
from training.evaluation.separation import auroc


def blobs(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    return np.eye(3)[labels] * 2 + rng.normal(size=(num, 3)), labels


def test_knn_is_scikit_learns_with_the_same_weights() -> None:
    (train, labels), (test, test_labels) = blobs(300, 0), blobs(700, 1)
    oracle = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / KNN_TEMPERATURE))
    expected = oracle.fit(train, labels).score(test, test_labels)
    assert knn_accuracy(train, labels, test, test_labels) == pytest.approx(expected)
    assert 0.7 < expected < 0.95


def test_the_linear_probe_reads_what_is_there_and_nothing_else() -> None:
    (train, labels), (test, test_labels) = blobs(500, 0), blobs(500, 1)
    assert linear_probe_accuracy(train, labels, test, test_labels) > 0.75
    shuffled = np.random.default_rng(2).permutation(labels)
    assert linear_probe_accuracy(train, shuffled, test, test_labels) < 0.5


def objective(probe: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> float:  # type: ignore[type-arg]
    nats = -probe.predict_log_proba(features)[np.arange(len(labels)), labels].sum()
    return float(nats + np.square(probe.coef_).sum() / (2 * probe.C))


def test_the_linear_probe_is_fitted_to_the_end() -> None:
    """Features of which most vary together: where a solver that stops early is far from the optimum."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 1)) + 0.1 * rng.normal(size=(2000, 40))
    labels = (features @ rng.normal(size=(40, 3)) + rng.normal(size=(2000, 3))).argmax(axis=1)
    scaler, probe = fit_linear_probe(features, labels, inverse_l2=1.0)
    standardised = scaler.transform(features)
    exact = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(standardised, labels)
    best = objective(exact, standardised, labels)
    assert objective(probe, standardised, labels) == pytest.approx(best, rel=1e-5)
    hasty = LogisticRegression(C=1.0, tol=1e-2).fit(standardised, labels)
    assert objective(hasty, standardised, labels) > 1.001 * best  # the tolerance is what it depends on


def test_the_strength_of_the_probe_is_what_does_best_on_training_rows_held_out() -> None:
    rng = np.random.default_rng(0)
    clean, labels = blobs(4000, 0)
    lost_in_noise = np.concatenate([clean, rng.normal(size=(4000, 600))], axis=1)
    held_out, fitted = np.split(np.random.default_rng(0).permutation(4000), [1000])

    def chosen_by_hand(features: np.ndarray) -> float:  # type: ignore[type-arg]
        def accuracy(inverse_l2: float) -> float:
            probe = LogisticRegression(C=inverse_l2, max_iter=1000).fit(features[fitted], labels[fitted])
            return float(probe.score(features[held_out], labels[held_out]))

        return max(INVERSE_L2S, key=accuracy)

    for features in (clean, lost_in_noise):
        assert choose_inverse_l2(features, labels) == chosen_by_hand(features)
    assert chosen_by_hand(lost_in_noise) < FEW_LABELS_INVERSE_L2  # one strength for all would not do
    standardised = StandardScaler().fit_transform(lost_in_noise)
    assert choose_inverse_l2(standardised, labels) == fit_linear_probe(lost_in_noise, labels)[-1].C


def test_where_nothing_can_be_held_out_the_strength_is_the_default() -> None:
    held_out = np.random.default_rng(0).permutation(300)[:150]
    alone = np.isin(np.arange(300), held_out[:1]).astype(int)  # the only row of its class is held out
    for labels in (np.array([0, 1]), np.arange(150) % 2, alone):
        features = labels[:, None] + np.random.default_rng(1).normal(size=(len(labels), 3))
        assert choose_inverse_l2(features, labels) == FEW_LABELS_INVERSE_L2
        assert fit_linear_probe(features, labels)[-1].C == FEW_LABELS_INVERSE_L2


def test_as_many_labels_are_drawn_of_each_class_as_asked_for() -> None:
    labels = np.repeat([0, 1, 2], [500, 100, 3])
    for per_class, expected in ((1, [1, 1, 1]), (10, [10, 10, 3]), (0.1, [50, 10, 1]), (0.001, [1, 1, 1])):
        rows = draw_per_class(labels, per_class, seed=0)
        assert np.bincount(labels[rows]).tolist() == expected
        assert len(np.unique(rows)) == len(rows)
    assert draw_per_class(labels, 10, seed=0).tolist() != draw_per_class(labels, 10, seed=1).tolist()


def test_more_labels_read_more_and_vary_less() -> None:
    (train, labels), (test, test_labels) = blobs(3000, 0), blobs(1000, 1)
    few, some, many = (labels_curve(train, labels, test, test_labels, num, 5) for num in (1, 10, 500))
    assert few.mean() < some.mean() < many.mean()
    assert few.std() > some.std() > many.std()
    assert many.mean() == pytest.approx(linear_probe_accuracy(train, labels, test, test_labels), abs=0.02)
    np.testing.assert_array_equal(few, labels_curve(train, labels, test, test_labels, 1, 5))


def test_nearest_rows_are_those_of_the_smallest_angle() -> None:
    bank = np.array([[1, 0], [0, 1], [1, 1], [-1, 0]])
    assert nearest_rows(bank, np.array([[5, 0.1], [-9, 1]]), 3).tolist() == [[0, 2, 1], [3, 1, 2]]


def test_clusters_are_the_classes_or_have_nothing_to_do_with_them() -> None:
    labels = np.arange(300) % 3
    apart = np.eye(3)[labels] + np.random.default_rng(0).normal(size=(300, 3)) * 0.01
    for name, values in cluster_agreement(apart, labels, num_seeds=2).items():
        assert values == pytest.approx([1, 1]), name
    for name, values in cluster_agreement(np.random.default_rng(1).normal(size=(300, 3)), labels, num_seeds=2).items():
        assert abs(values).max() < 0.05, name
    for values in cluster_agreement(np.ones((300, 3)), labels, num_seeds=1).values():
        assert values == pytest.approx(0)  # one point: no clusters, no warning


def test_what_is_held_out_is_one_level_of_the_factor_for_each_class() -> None:
    labels, factor = np.repeat([0, 1, 2], 6), np.tile(np.arange(6), 3)
    held_out = held_out_combinations(labels, factor, 3).reshape(3, 6)
    assert held_out.astype(int).tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]


def combinations(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, 3, num), rng.integers(0, 6, num), rng.integers(0, 2, num)], axis=1)
    return factors[:, 0], factors


def test_factors_read_apart_carry_over_to_unseen_combinations_and_memorised_ones_do_not() -> None:
    (labels, factors), (test_labels, test_factors) = combinations(2000, 0), combinations(1000, 1)

    def accuracies(features: object) -> np.ndarray:  # type: ignore[type-arg]
        assert callable(features)
        arrays = (features(factors), labels, factors, features(test_factors), test_labels, test_factors)
        return composition_accuracies(*arrays)

    apart = accuracies(lambda f: np.concatenate([np.eye(3)[f[:, 0]], np.eye(6)[f[:, 1]]], axis=1))
    by_heart = accuracies(lambda f: np.eye(18)[f[:, 0] * 6 + f[:, 1]])
    assert apart == pytest.approx([1.0])  # of the other factors only the one with three levels or more counts
    assert by_heart[0] < 0.4


def test_a_group_that_is_left_out_is_judged_by_the_others() -> None:
    features, labels = blobs(600, 0)
    groups = np.random.default_rng(1).integers(0, 3, 600)
    expected = [
        linear_probe_accuracy(features[groups != g], labels[groups != g], features[groups == g], labels[groups == g])
        for g in range(3)
    ]
    assert leave_one_group_out_accuracies(features, labels, groups) == pytest.approx(expected)
    own_label = np.eye(9)[labels + 3 * groups]  # tells the class, but in each group by a column of its own
    assert (
        leave_one_group_out_accuracies(own_label, labels, groups).max()
        < 0.5
        < linear_probe_accuracy(own_label, labels, own_label, labels)
    )
    with pytest.raises(ValueError, match="groups_N: got 1 group, expected at least 2"):
        leave_one_group_out_accuracies(features, labels, np.zeros(600))


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert auroc(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert auroc(np.array([2.0]), np.array([1.0])) == 0.0
