"""Pixel AUROC and AUPRO against scikit-learn, and against the definition, threshold by threshold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from training.evaluation.places import area_up_to, place_figures, upsampled


def by_definition(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float = 0.3) -> float:
    regions = []
    for image, mask in zip(maps, masks, strict=True):
        numbers, num = label(mask, structure=np.ones((3, 3)))
        regions += [image[numbers == i] for i in range(1, num + 1)]
    usual = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        points.append(
            (float((usual >= threshold).mean()), float(np.mean([(of_one >= threshold).mean() for of_one in regions])))
        )
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y1 if x1 <= limit else y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        total += (end - x0) * (y0 + y_end) / 2
    return total / limit


@pytest.mark.parametrize("levels", [0, 6])
def test_figures_are_those_of_the_definition(levels: int) -> None:
    rng = np.random.default_rng(levels)
    masks = np.zeros((4, 12, 10), np.bool_)
    masks[0, 2:5, 3:8], masks[0, 8, 8], masks[1, 0, 0], masks[1, 1, 1], masks[2, 4:, 5] = True, True, True, True, True
    maps = rng.normal(size=masks.shape).astype(np.float32) + masks * np.float32(1.2)
    if levels:
        maps = np.round(maps * levels / 4).astype(np.float32)
    found = place_figures(maps, masks)
    assert found.pixel_auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found.aupro == pytest.approx(by_definition(maps, masks), abs=1e-12)
    assert found.num_regions == 4  # pixels that touch at a corner are one region


def test_a_perfect_map_has_one_and_a_constant_one_what_chance_has() -> None:
    masks = np.zeros((2, 8, 8), np.bool_)
    masks[0, 2:4, 2:4] = True
    perfect = place_figures(masks.astype(np.float32), masks)
    assert (perfect.pixel_auroc, perfect.aupro) == (1.0, 1.0)
    flat = place_figures(np.ones(masks.shape, np.float32), masks)
    assert flat.pixel_auroc == 0.5
    assert flat.aupro == pytest.approx(0.15)


def test_small_regions_count_as_much_as_large_ones() -> None:
    masks = np.zeros((1, 10, 10), np.bool_)
    masks[0, :5, :6], masks[0, 9, 9] = True, True
    only_large = masks.astype(np.float32)
    only_large[0, 9, 9] = 0
    found = place_figures(only_large, masks)
    assert found.pixel_auroc > 0.98
    assert found.aupro == pytest.approx(0.5 + 0.5 * 0.15)


def test_what_has_no_figures_is_an_error() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    with pytest.raises(ValueError, match="got pixels of one kind alone"):
        place_figures(maps, np.zeros((1, 4, 4), np.bool_))
    with pytest.raises(ValueError, match=r"got \[1, 4, 5\], expected \[1, 4, 4\]"):
        place_figures(maps, np.zeros((1, 4, 5), np.bool_))


def test_areas_end_at_the_limit_and_maps_grow_bilinearly() -> None:
    x, y = np.array([0.0, 0.2, 0.6]), np.array([0.0, 1.0, 1.0])
    assert area_up_to(y, x, 0.4) == pytest.approx(0.1 + 0.2)
    assert area_up_to(y, x, 0.1) == pytest.approx(0.025)
    grown = upsampled(np.array([[[0.0, 1.0]]], np.float32), 1, 4)
    np.testing.assert_allclose(grown, [[[0, 0.25, 0.75, 1]]])
