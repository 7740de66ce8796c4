"""Usual rows, damaged on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.damage import KINDS_OF_IMAGES, KINDS_OF_SOUNDS, damage


def smooth_images(num: int, height: int = 24, width: int = 24, channels: int = 1) -> NDArray[np.uint8]:
    """Stripes, of another direction in each image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi, (num, 1, 1))
    stripes = 127 + 80 * np.sin((y * np.sin(angle) + x * np.cos(angle)) / 2)
    return np.repeat(stripes[..., None], channels, axis=3).astype(np.uint8)


def clips(num: int, samples: int = 2000) -> NDArray[np.int16]:
    """Tones that end before the clip does."""
    rng = np.random.default_rng(0)
    x = 8000 * np.sin(rng.uniform(0.1, 0.9, (num, 1)) * np.arange(samples)) * np.linspace(0.2, 1, samples)
    x[:, int(0.8 * samples) :] = 0
    return x.astype(np.int16)


EVERY_KIND = [*((name, "image") for name in KINDS_OF_IMAGES), *((name, "sound") for name in KINDS_OF_SOUNDS)]


@pytest.mark.parametrize(("name", "what"), EVERY_KIND)
def test_every_kind_changes_rows_by_more_where_it_is_severe(name: str, what: str) -> None:
    rows: NDArray[Any] = smooth_images(200) if what == "image" else clips(200)
    kinds = {name: (KINDS_OF_IMAGES if what == "image" else KINDS_OF_SOUNDS)[name]}
    before = rows.copy()
    found = damage(rows, 0, kinds)
    np.testing.assert_array_equal(rows, before)
    assert (found.values.dtype, found.values.shape[1:]) == (rows.dtype, rows.shape[1:])
    assert len(found.values) > 150
    assert set(found.kinds_N) == {name}
    change = np.abs(found.values.astype(float) - rows[found.source_N]).reshape(len(found.values), -1).mean(axis=1)
    assert change.min() > 0
    if name not in ("jigsaw", "halves", "clipping"):
        assert np.corrcoef(change, found.severity_N)[0, 1] > 0.1


@pytest.mark.parametrize("rows", [smooth_images(60, 9, 31, 3), smooth_images(60), clips(60), clips(60, 3)])
def test_the_same_seed_damages_alike_and_another_does_not(rows: NDArray[Any]) -> None:
    one, same, other = damage(rows, 3), damage(rows, 3), damage(rows, 4)
    np.testing.assert_array_equal(one.values, same.values)
    assert one.values.shape != other.values.shape or (one.values != other.values).any()


def test_what_damage_does_nothing_to_does_not_count() -> None:
    black = np.zeros((120, 8, 8, 1), np.uint8)
    found = damage(black)
    assert 0 < len(found.values) < 120
    assert found.values.reshape(len(found.values), -1).any(axis=1).all()
    assert not {"cut_paste", "swap", "blur", "faded", "jigsaw"} & set(found.kinds_N)
    silent = damage(np.zeros((70, 100), np.int16))
    assert len(silent.values) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (40, 1, 1)])
def test_the_smallest_images_can_be_damaged(shape: tuple[int, int, int]) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8)
    assert len(damage(rows).values) > 10


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((5, 8, 8, 1), np.float32), r"rows: got float32 \[5, 8, 8, 1\], expected uint8"),
        (np.zeros((5, 8), np.uint8), r"rows: got uint8 \[5, 8\], expected"),
        (np.zeros((1, 8, 8, 1), np.uint8), "rows: got 1, expected 2 or more"),
    ],
)
def test_what_is_neither_images_nor_sounds_is_refused(rows: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        damage(rows)
