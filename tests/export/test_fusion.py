"""The fusion of detectors, against its definition written out one score at a time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.detectors.fusion import Fusion, knots


def width_by_hand(reference_M: NDArray[Any], resolution: float | None) -> float:
    """Over which a score may move -log p by 1: 64 times what it is known to, or a millionth of the deviation."""
    if resolution is None:
        resolution = 2**-20 * max(1.0, float(np.abs(reference_M).max()))
    return max(64 * resolution, 1e-6 * float(np.std(reference_M)))


def surprise_by_hand(reference_M: NDArray[Any], score: float, resolution: float | None = None) -> float:
    """-log p of one score of one detector."""
    descending = sorted((float(one) for one in reference_M), reverse=True)
    num, ranks = len(descending), [*knots(len(descending)), len(descending) + 1]
    width, places = width_by_hand(reference_M, resolution), [descending[0]]
    for before, rank in pairwise(ranks[:-1]):  # drawn out towards lower scores
        places.append(min(descending[rank - 1], places[-1] - (rank - before) / before * width))
    above = 0.0
    for place, after, (rank, following) in zip(places, [*places[1:], places[-1]], pairwise(ranks), strict=True):
        gap = max(place - after, (following - rank) / rank * width)
        above += min(max((place - score) / gap, 0), 1) * (following - rank)
    p = min((above + 1) / (num + 1), 0.9)
    tail = descending[: max(10, round(0.05 * num))]
    scale = max(float(np.mean([one - tail[-1] for one in tail])), width)
    return min(max(score - descending[0], 0) / scale - math.log(p), 60.0)


@pytest.mark.parametrize("num", [2, 3, 9, 40, 57, 200])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("resolution", [None, 0.0, 1e-4, 0.02])
def test_surprise_is_its_definition(num: int, coarse: bool, resolution: float | None) -> None:
    rng = np.random.default_rng(num)
    reference = rng.standard_normal((num, 2)).astype(np.float32)
    if coarse:  # many are equal
        reference = np.round(reference * 2) / 2
    scale = np.array([1 / 8, 1e4], np.float32)  # one detector's scores are much larger than the other's
    reference = reference * scale
    standard_deviation = reference.std(axis=0)
    known = None if resolution is None else resolution * scale.astype(np.float64)
    scores = np.concatenate(
        [
            rng.uniform(-3, 4, (200, 2)) * scale,
            reference,
            reference - 1e-3 * standard_deviation,
            reference[:9] + 3 * scale,
        ]
    )
    if resolution != 0.0:  # within the width of a knot, where the line is drawn out
        widths = np.array([width_by_hand(reference[:, k], None if known is None else known[k]) for k in range(2)])
        scores = np.concatenate([scores, *(reference + widths * share for share in (-2, -0.5, -0.1, 0.1, 2))])
    scores = scores.astype(np.float32)
    got = Fusion(reference, known).surprise(torch.from_numpy(scores)).numpy()
    known_K = [None, None] if known is None else known
    expected = [[surprise_by_hand(reference[:, k], float(row[k]), known_K[k]) for k in range(2)] for row in scores]
    assert got.dtype == np.float64
    if resolution == 0.0:  # a millionth of the deviation is hardly more than float32 knows
        near = np.isclose(got, expected, rtol=2e-3, atol=2e-3)
        assert near.mean() > 0.9
        return
    # knots and gaps are rounded to float32: of a width, at most a 64th of what a score may be off
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_where_scores_are_known_exactly_lines_are_as_steep_as_float32_can_follow() -> None:
    reference = np.repeat(np.linspace(-1, 1, 10), 12)[:, None]
    fusion = Fusion(reference, np.zeros(1))
    width = 1e-6 * float(np.std(reference))
    at_first = fusion.gap_QK[:3, 0].numpy()  # ranks 1 to 12 are equal
    np.testing.assert_allclose(at_first, [width / (rank - 1) for rank in (2, 3, 4)], rtol=0.1)
    np.testing.assert_allclose(fusion.scale_K.numpy(), width, rtol=1e-3)  # and their tail has no length


def test_two_rows_that_are_close_by_chance_do_not_set_the_scale_of_the_tail() -> None:
    reference = np.append(np.linspace(-2, 1.9, 39), 1.9001)[:, None]
    surprise = Fusion(reference).surprise(torch.tensor([[2.4]])).item()
    assert surprise < 6  # by the excess of one row over the next it would be 60, as far out as can be


def test_columns_are_the_combination_of_cauchy_then_the_largest_surprise() -> None:
    reference = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    fusion, scores = Fusion(reference), np.random.default_rng(1).uniform(-2, 3, (50, 3)).astype(np.float32)
    p = np.exp([[-surprise_by_hand(reference[:, k], float(row[k])) for k in range(3)] for row in scores])
    got = fusion(torch.from_numpy(scores))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got[:, 0], np.arcsinh(np.tan(np.pi * (0.5 - p)).mean(axis=1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[:, 1], -np.log(p.min(axis=1)), rtol=1e-4, atol=1e-4)
    assert fusion.names == ("cauchy", "bonferroni")
    assert ["smallest p" in fusion.methods[1], "Cauchy" in fusion.methods[0]] == [True, True]


def test_knots_are_each_rank_at_first_and_then_a_tenth_further() -> None:
    assert knots(1) == [1]
    assert knots(2) == [1, 2]
    expected = [*range(1, 21), 22, 24, 26, 28, 30, 33, 36, 39, 40]
    assert knots(40) == expected
    assert knots(39) == expected[:-1]


def test_rows_without_end_are_equally_far_out_and_their_scores_are_numbers() -> None:
    fusion = Fusion(np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32))
    far = fusion(torch.tensor([[1e5, 0.0], [1e6, 0.0], [float("inf"), 0.0]]))
    assert far[:, 1].tolist() == [60.0] * 3
    assert torch.isfinite(far).all()
    assert torch.equal(far[0], far[1])


def test_a_row_that_every_detector_finds_typical_is_not_more_typical_than_another() -> None:
    fusion = Fusion(np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32))
    low = fusion(torch.tensor([[-50.0, -50.0], [-4.0, -5.0]]))
    assert torch.equal(low[0], low[1])
    np.testing.assert_allclose(low[0, 1], -math.log(0.9), rtol=1e-6)
    np.testing.assert_allclose(low[0, 0], math.asinh(math.tan(math.pi * (0.5 - 0.9))), rtol=1e-6)


@pytest.mark.parametrize(("values", "num"), [([np.nan], 1), ([np.inf, 1.0, -np.inf], 2)])
def test_how_many_scores_are_no_numbers_is_said(values: list[float], num: int) -> None:
    with pytest.raises(ValueError, match=f"reference: got {num} scores that are not finite"):
        Fusion(np.array(values)[:, None])
