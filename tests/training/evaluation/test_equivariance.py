from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from training.evaluation.corruptions import CORRUPTIONS, corrupted
from training.evaluation.equivariance import RIDGE, equivariance, invariance
from training.evaluation.transforms import GENERATORS, warped


def photos(num: int = 6, side: int = 28, channels: int = 1) -> NDArray[np.uint8]:
    """Smooth images, so that interpolation loses little."""
    y, x = np.mgrid[:side, :side] / side
    phase = np.arange(num * channels).reshape(num, 1, 1, channels)
    waves = np.sin(6 * x[None, :, :, None] + phase) * np.cos(5 * y[None, :, :, None] - phase)
    return np.round(127.5 + 127.5 * waves).astype(np.uint8)


@pytest.mark.parametrize("name", [*GENERATORS])
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (33, 3)])
def test_a_change_keeps_shape_and_type_and_changes_something(name: str, side: int, channels: int) -> None:
    images = photos(3, side, channels)
    changed = GENERATORS[name](images)
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - images).mean() > 1
    np.testing.assert_array_equal(changed, GENERATORS[name](images))


def test_a_shift_of_whole_pixels_moves_them_and_the_border_goes_on() -> None:
    images = photos()
    moved = GENERATORS["shift"](images)
    np.testing.assert_array_equal(moved[:, :, 2:], images[:, :, :-2])  # 28 / 14 = 2 to the right
    np.testing.assert_array_equal(moved[:, :, 1], images[:, :, 0])
    up = warped(images, np.zeros(1), np.ones(1), np.array([[-3.0, 0.0]]))
    np.testing.assert_array_equal(up[:, :-3], images[:, 3:])


def test_a_rotation_is_scipys() -> None:
    images = photos()
    oracle = rotate(images.astype(float), 15, axes=(1, 2), reshape=False, order=1, mode="nearest")
    turned = GENERATORS["rotate"](images).astype(float)
    np.testing.assert_allclose(turned, oracle, atol=1)
    quarter = warped(images, np.array([90.0]), np.ones(1), np.zeros((1, 2)))
    np.testing.assert_array_equal(quarter, np.rot90(images, axes=(1, 2)))


def test_every_image_may_move_its_own_way_and_scale_is_about_the_centre() -> None:
    images = photos(2)
    moved = warped(images, np.array([0.0, 180.0]), np.ones(2), np.zeros((2, 2)))
    np.testing.assert_array_equal(moved, [images[0], images[1, ::-1, ::-1]])
    dot = np.zeros((1, 9, 9, 1), np.uint8)
    dot[0, 4, 8] = 200
    smaller = warped(dot, np.zeros(1), np.array([0.5]), np.zeros((1, 2)))
    assert smaller[0, 4, 6, 0] == 200


@pytest.mark.parametrize("name", [*CORRUPTIONS])
def test_a_corruption_is_the_same_for_the_same_seed(name: str) -> None:
    images = photos(4, 28, 3)
    damaged = corrupted(name, images, seed=1)
    assert damaged.shape == images.shape
    assert damaged.dtype == np.uint8
    np.testing.assert_array_equal(damaged, corrupted(name, images, seed=1))
    drawn = name in ("noise", "shift_rotate")
    assert np.array_equal(damaged, corrupted(name, images, seed=2)) is not drawn


def test_corruptions_are_as_strong_as_they_say() -> None:
    grey = np.full((20, 28, 28, 1), 100, np.uint8)
    assert corrupted("noise", grey).std() == pytest.approx(25.5, rel=0.03)
    assert (corrupted("brightness", grey) == 176).all()
    assert (corrupted("brightness", grey + 100) == 255).all()  # clipped, not wrapped around
    striped = np.tile(np.array([50, 150], np.uint8), (1, 28, 14)).reshape(1, 28, 28, 1)
    assert np.unique(corrupted("contrast", striped)).tolist() == [92, 108]  # 100 -+ 0.15 * 50, rounded
    oracle = gaussian_filter(photos().astype(float), (0, 1, 1, 0), mode="nearest")
    np.testing.assert_allclose(corrupted("blur", photos()), oracle, atol=0.6)


SEEDED = np.random.default_rng(0)


def rows(num: int, dim: int = 5) -> NDArray[Any]:
    return SEEDED.normal(size=(num, dim)).astype(np.float32)


def test_a_linear_law_is_found_and_noise_is_not() -> None:
    train, test, law = rows(400), rows(100), rows(5)
    assert equivariance(train, train @ law + 3, test, test @ law + 3) == pytest.approx(1, abs=1e-4)
    assert equivariance(train, rows(400), test, rows(100)) < 0.05
    half = equivariance(train, train + rows(400), test, test + rows(100))
    assert half == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("dim", [5, 90])
def test_equivariance_is_ridge_regression(dim: int) -> None:
    train, train_moved, test, test_moved = (rows(num, dim) for num in (60, 60, 40, 40))
    train_moved, test_moved = train_moved + train @ (law := rows(dim, dim)), test_moved + test @ law
    oracle = Ridge(RIDGE * 60 * train.var(axis=0).mean()).fit(train, train_moved)
    expected = r2_score(test_moved, oracle.predict(test), multioutput="variance_weighted")
    assert equivariance(train, train_moved, test, test_moved) == pytest.approx(expected, rel=1e-3)


def test_invariance_is_what_needs_no_map() -> None:
    test = rows(200)
    assert invariance(test, test) == 1
    assert invariance(test, -test) == pytest.approx(-3, abs=0.1)
    assert equivariance(rows(200), rows(200), test, -test) < 0.05
    train = rows(200)
    assert equivariance(train, -train, test, -test) == pytest.approx(1, abs=1e-4)


def test_an_embedding_that_is_one_point_explains_nothing() -> None:
    point = np.full((50, 4), 0.1, np.float32)
    nearly = point + rows(50, 4) * 1e-8
    for features in (point, nearly, np.zeros((50, 4), np.float32)):
        assert equivariance(features, features, features, features) == 0
        assert invariance(features, features) == 0
    assert equivariance(point, rows(50, 4), point, rows(50, 4)) == pytest.approx(0, abs=0.1)
