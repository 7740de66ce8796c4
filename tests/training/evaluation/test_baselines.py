from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances

from training.data import load_data
from training.evaluation.baselines import PATCH, patch_centres, pixels, principal_components
from training.evaluation.probes import linear_probe_accuracy


def test_pixels_are_the_images_between_0_and_1(digits: NDArray[np.uint8]) -> None:
    flat = pixels(digits)
    assert flat.shape == (300, 64)
    np.testing.assert_allclose(flat.reshape(digits.shape) * 255, digits, atol=1e-4)


def test_principal_components_are_uncorrelated_and_ordered(digits: NDArray[np.uint8]) -> None:
    components = principal_components(digits, 16)(digits)
    covariance = np.cov(components, rowvar=False)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)
    assert all(one >= other for one, other in pairwise(np.diag(covariance)))
    assert principal_components(digits[:5], 16)(digits).shape == (300, 5)  # no more than there are rows


def test_patches_look_at_each_quarter_and_only_there() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 17, 17, 3), dtype=np.uint8)
    encode = patch_centres(images, num_centres=7)
    features = encode(images).reshape(40, 4, 7)
    other = images.copy()
    other[:, :6, :6] = 0  # rows and columns 0 to 5 of 12 patches belong to the upper left quarter
    changed = np.abs(encode(other).reshape(40, 4, 7) - features).max(axis=(0, 2)) > 1e-3
    assert changed.tolist() == [True, False, False, False]
    assert (features >= 0).all()


def test_a_patchs_activation_is_by_how_much_a_centre_is_nearer_than_the_mean() -> None:
    """One patch more than fits once, so that each quarter holds a single patch."""
    images = np.random.default_rng(1).integers(0, 256, (30, PATCH + 1, PATCH + 1, 1), dtype=np.uint8)
    features = patch_centres(images, num_centres=5)(images).reshape(30, 4, 5)
    # from (mean - distance)+ alone: the nearest centre is active, the furthest is not
    assert (features.max(axis=2) > 0).all()
    assert (features.min(axis=2) == 0).all()


def test_images_smaller_than_a_patch_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"patches: got images of \(5, 5\), expected more than 6 pixels"):
        patch_centres(np.zeros((20, 5, 5, 1), np.uint8))


def test_patches_read_more_than_pixels_where_things_move() -> None:
    """Bars that lie or stand, anywhere: no pixel tells, every patch does."""

    def bars(num: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        images, labels = np.zeros((num, 20, 20, 1), np.uint8), rng.integers(0, 2, num)
        for image, stands, (y, x) in zip(images, labels, rng.integers(0, 13, (num, 2)), strict=True):
            image[y : y + (8 if stands else 2), x : x + (2 if stands else 8)] = 255
        return images, labels

    (train, labels), (test, test_labels) = bars(200, 0), bars(200, 1)
    encode = patch_centres(train, num_centres=20)
    of_patches = linear_probe_accuracy(encode(train), labels, encode(test), test_labels)
    of_pixels = linear_probe_accuracy(pixels(train), labels, pixels(test), test_labels)
    assert of_patches > 0.97
    assert of_patches > of_pixels + 0.03


def test_the_baselines_learn_from_training_rows_alone() -> None:
    data = load_data("digits")
    encode = principal_components(data.train.values, 16)
    together, alone = encode(data.test.values), encode(data.test.values[:1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    assert pairwise_distances(together).max() > 1
