from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from training.evaluation.probes import (
    KNN_TEMPERATURE,
    knn_accuracy,
    leave_one_group_out_accuracy,
    linear_probe_accuracy,
)
from training.evaluation.strange import auroc, strange_images


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


def test_a_group_that_is_left_out_is_judged_by_the_others() -> None:
    features, labels = blobs(600, 0)
    groups = np.random.default_rng(1).integers(0, 3, 600)
    expected = [
        linear_probe_accuracy(features[groups != g], labels[groups != g], features[groups == g], labels[groups == g])
        for g in range(3)
    ]
    assert leave_one_group_out_accuracy(features, labels, groups) == pytest.approx(np.mean(expected))
    own_label = np.eye(9)[labels + 3 * groups]  # tells the class, but in each group by a column of its own
    assert (
        leave_one_group_out_accuracy(own_label, labels, groups)
        < 0.5
        < linear_probe_accuracy(own_label, labels, own_label, labels)
    )
    with pytest.raises(ValueError, match="groups_N: got 1 group, expected at least 2"):
        leave_one_group_out_accuracy(features, labels, np.zeros(600))


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert auroc(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert auroc(np.array([2.0]), np.array([1.0])) == 0.0


@pytest.mark.parametrize("channels", [1, 3])
def test_strange_images_are_as_many_and_of_the_same_shape(channels: int) -> None:
    test = np.random.default_rng(0).integers(0, 256, (5, 28, 28, channels), dtype=np.uint8)
    sets = strange_images(test)
    assert set(sets) == {"shapes", "horizontal_flip", "noise"}
    for images in sets.values():
        assert images.shape == test.shape
        assert images.dtype == np.uint8
    np.testing.assert_array_equal(sets["horizontal_flip"][:, :, 0], test[:, :, -1])
