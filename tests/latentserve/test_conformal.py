from __future__ import annotations

import hashlib
import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from latentserve.conformal import (
    SMALLEST_SIMULATED_DELTA,
    Adjustment,
    Move,
    adjustments,
    at_most,
    check_delta,
    conditional_p_values,
    num_small_p_values,
    p_values,
    rejected,
    scatter,
    sha256_of_scores,
    worst_move,
)

SCORES = st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_p_is_the_definition_counted_by_hand(calibration: list[float], scores: list[float]) -> None:
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    np.testing.assert_allclose(p_values(np.array(scores), np.sort(calibration)), expected)


def test_what_is_no_number_gets_the_smallest_p_value() -> None:
    p = p_values(np.array([np.nan, np.inf, -np.inf]), np.arange(9.0))
    np.testing.assert_allclose(p, [0.1, 0.1, 0.1])


def test_false_alarms_are_at_most_alpha_whatever_the_scores() -> None:
    rng = np.random.default_rng(0)
    flagged = []
    for _ in range(400):
        drawn = rng.pareto(1.0, 300)
        flagged.append(p_values(drawn[100:], np.sort(drawn[:100])) <= 0.1)
    # E = floor(0.1 * 101) / 101 = 0.099; 400 draws of Beta(10, 91) give a standard error of 0.0015
    assert 0.094 < np.mean(flagged) < 0.104


def test_ties_broken_at_random_make_p_values_uniform() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 3, (3000, 20))  # nothing but ties
    p = np.array([p_values(row[19:], np.sort(row[:19]), rng)[0] for row in drawn])
    counts = np.bincount(np.round(p * 20).astype(int), minlength=21)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.01
    careful = np.array([p_values(row[19:], np.sort(row[:19]))[0] for row in drawn])
    assert (careful >= p).all()
    assert (careful > p).any()


def test_without_calibration_there_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="got no scores, expected at least one"):
        p_values(np.zeros(1), np.zeros(0))


def test_simes_is_the_formula_of_bates_multiplied_out() -> None:
    num, delta, k = 9, 0.2, 4
    expected = []
    for place in range(1, num + 1):
        i = num + 1 - place
        ratio = np.prod([max(i - j, 0) / (num - j) for j in range(k)])
        expected.append(1 - delta ** (1 / k) * ratio ** (1 / k))
    np.testing.assert_allclose(adjustments(num, delta, "simes"), [*expected, 1.0])


@pytest.mark.parametrize("adjustment", ["simes", "dkwm", "monte_carlo"])
@pytest.mark.parametrize(("num", "delta"), [(50, 0.1), (200, 0.3)])
def test_the_order_statistics_stay_below_b_as_often_as_promised(num: int, delta: float, adjustment: Adjustment) -> None:
    b = adjustments(num, delta, adjustment)
    assert (np.diff(b) >= 0).all()
    uniform = np.sort(np.random.default_rng(1).random((4000, num)), axis=1)
    kept = (uniform <= b[:-1]).all(axis=1).mean()
    assert kept >= 1 - delta - 3 * np.sqrt(delta * (1 - delta) / 4000)
    broken = (uniform <= b[:-1] * 0.7).all(axis=1).mean()
    assert broken < 1 - delta


@pytest.mark.parametrize("adjustment", ["simes", "monte_carlo"])
def test_a_conditional_level_is_kept_by_the_calibration_at_hand(adjustment: Adjustment) -> None:
    """The true rate of a calibration set is that of uniform scores: how much lies above the lowest flagged score."""
    rng, num, delta, alpha = np.random.default_rng(0), 400, 0.1, 0.05
    rates = {"marginal": [], "conditional": []}  # type: dict[str, list[float]]
    for _ in range(1000):
        calibration = np.sort(rng.random(num))
        marginal = p_values(calibration - 1e-9, calibration)  # of scores just below each calibration score
        adjusted = conditional_p_values(marginal, num, delta, adjustment)
        for name, p in (("marginal", marginal), ("conditional", adjusted)):
            flagged = calibration[p <= alpha]
            rates[name].append(1 - flagged[0] if len(flagged) else 0.0)
    assert np.mean(np.array(rates["conditional"]) > alpha) <= delta
    assert np.mean(np.array(rates["marginal"]) > alpha) > 3 * delta


@pytest.mark.parametrize(
    ("num", "delta", "adjustment", "message"),
    [
        (0, 0.1, "simes", "got 0 calibration rows"),
        (9, 1.0, "simes", "delta 1.0, expected 1 or more and between 0 and 1"),
        (9, 0.1, "bonferroni", "adjustment: got 'bonferroni', expected one of"),
        (9, 0.001, "monte_carlo", "delta: got 0.001, expected 0.005 or more"),
    ],
)
def test_an_adjustment_that_cannot_be_is_refused(num: int, delta: float, adjustment: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adjustments(num, delta, adjustment)


P_VALUES = st.lists(st.floats(0.001, 1), min_size=1, max_size=30)


@given(P_VALUES, st.floats(0.01, 0.5))
def test_benjamini_hochberg_is_scipys(p: list[float], alpha: float) -> None:
    adjusted = stats.false_discovery_control(p, method="bh")
    sure = np.abs(adjusted - alpha) > 1e-9
    np.testing.assert_array_equal(rejected(np.array(p), alpha)[sure], (adjusted <= alpha)[sure])


ALPHAS = [Fraction(text) for text in ("0.01", "0.02", "0.03", "0.05", "0.07", "0.1", "0.15", "0.29", "0.3")]


@given(st.sampled_from(ALPHAS), st.integers(1, 200), st.integers(1, 300), st.data())
def test_benjamini_hochberg_is_exact_where_p_is_a_multiple(alpha: Fraction, num: int, rows: int, data: Any) -> None:
    """p-values are multiples of 1 / (n + 1), alpha is a decimal number: the procedure in fractions is the oracle."""
    # near alpha k / N, where it is decided
    near = [int(alpha * Fraction(k, rows) * (num + 1)) for k in range(1, rows + 1)]
    places = sorted(min(num + 1, max(1, place + data.draw(st.integers(0, 1)))) for place in near)
    exact = [Fraction(place, num + 1) for place in places]
    passed = [k for k, p in enumerate(exact, 1) if p <= alpha * Fraction(k, rows)]
    expected = [p <= exact[passed[-1] - 1] if passed else False for p in exact]
    assert rejected(np.array(places) / (num + 1), float(alpha)).tolist() == expected


def test_benjamini_hochberg_flags_all_rows_of_exactly_alpha_as_scipy_does() -> None:
    for rows in range(1, 200):
        p = np.full(rows, 1 / 100)
        assert stats.false_discovery_control(p, method="bh").max() == pytest.approx(0.01, rel=1e-12)
        assert rejected(p, 0.01).all()


@example(Fraction("0.1"), 9)
@given(st.sampled_from(ALPHAS), st.integers(1, 1000))
def test_p_values_at_most_alpha_are_counted_as_in_fractions(alpha: Fraction, num: int) -> None:
    exact = sum(Fraction(place, num + 1) <= alpha for place in range(1, num + 1))
    assert num_small_p_values(num, float(alpha)) == exact
    p = np.arange(1, num + 1) / (num + 1)
    for level in (float(alpha), 1 - (1 - float(alpha)), float(alpha) * 7 / 7, float(alpha) / 3 * 3):
        assert at_most(p, level).sum() == exact


@pytest.mark.parametrize("num", [7, 99, 4999])
def test_a_conditional_p_value_is_that_of_its_place(num: int) -> None:
    marginal = np.arange(1, num + 2) / (num + 1)
    np.testing.assert_array_equal(conditional_p_values(marginal, num, 0.1, "simes"), adjustments(num, 0.1, "simes"))


@pytest.mark.parametrize(
    ("num", "delta", "expected"),
    [
        (1, 0.1, [0.9095496431539069, 1.0]),
        (7, 0.1, [0.3695219189132884, 0.551895591038995, 0.6970283437071587, 0.8188151959002887, 0.9204179080766626]),
        (19, 0.3, [0.13593861597624035, 0.2162971291980972, 0.2858137329512297, 0.3497302282811431]),
        (5, 0.005, [0.7093459897159589]),
        (300, 0.05, [0.01970169173996097, 0.026947171063215973]),
    ],
)
def test_simulated_adjustments_are_what_bundles_were_made_with(num: int, delta: float, expected: list[float]) -> None:
    """p-values of a bundle that is served today may not be others tomorrow: recorded, to all digits that libm keeps."""
    np.testing.assert_allclose(adjustments(num, delta, "monte_carlo")[: len(expected)], expected, rtol=1e-9)


@pytest.mark.parametrize("num", [1, 2, 3, 40])
@pytest.mark.parametrize("delta", [0.1, 0.5, 0.9])
def test_dkwm_is_its_formula(num: int, delta: float) -> None:
    width = np.sqrt(np.log(1 / min(delta, 0.5)) / 2 / num)
    expected = [min(1.0, place / num + width) for place in range(1, num + 1)]
    np.testing.assert_allclose(adjustments(num, delta, "dkwm"), [*expected, 1.0], rtol=1e-12)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 40])
def test_simes_is_its_formula_for_few_rows_too(num: int) -> None:
    k = max(1, num // 2)
    falling = [math.prod(range(i - k + 1, i + 1)) if i >= k else 0 for i in range(num, 0, -1)]
    expected = [1 - (0.1 * part / falling[0]) ** (1 / k) for part in falling]
    np.testing.assert_allclose(adjustments(num, 0.1, "simes"), [*expected, 1.0], rtol=1e-9)


@pytest.mark.parametrize("adjustment", ["simes", "dkwm", "monte_carlo"])
def test_adjustments_end_with_one_and_nobody_can_change_them(adjustment: Adjustment) -> None:
    b = adjustments(9, 0.1, adjustment)
    assert (len(b), b[-1], b.max()) == (10, 1.0, 1.0)
    assert (np.diff(b) >= 0).all()
    with pytest.raises(ValueError, match="read-only"):
        b[0] = 0.0


@pytest.mark.parametrize(("num", "delta"), [(0, 0.1), (-1, 0.1), (9, 0.0), (9, -0.1), (9, 1.0), (9, 1.1)])
def test_levels_and_numbers_that_cannot_be_are_refused(num: int, delta: float) -> None:
    with pytest.raises(ValueError, match=f"got {num} calibration rows and delta {delta}, expected 1 or more and"):
        adjustments(num, delta, "dkwm")


def test_the_smallest_delta_of_a_simulation_is_taken_and_no_smaller_one() -> None:
    assert SMALLEST_SIMULATED_DELTA == 0.005
    adjustments(5, 0.005, "monte_carlo")
    check_delta(0.004, "dkwm")
    with pytest.raises(ValueError, match=r"delta: got 0\.0049, expected 0\.005 or more for monte_carlo"):
        check_delta(0.0049, "monte_carlo")


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 1.1])
def test_a_delta_is_between_0_and_1(delta: float) -> None:
    with pytest.raises(ValueError, match=f"^delta: got {delta}, expected between 0 and 1$"):
        check_delta(delta, "simes")


def test_ties_are_broken_among_equals_alone() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 2.0, 3.0])
    scores = np.array([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, np.nan])
    drawn = np.array([p_values(scores, calibration, np.random.default_rng(seed)) for seed in range(300)]) * 6
    found = [sorted(set(np.round(column).astype(int))) for column in drawn.T]
    assert found == [[6], [5, 6], [2, 3, 4, 5], [2], [1, 2], [1], [1]]


def test_p_values_are_float64_whatever_the_scores_are() -> None:
    p = p_values(np.zeros(3, np.float16), np.arange(3, dtype=np.float32))
    assert (p.dtype, p.tolist()) == (np.float64, [1.0] * 3)


@pytest.mark.parametrize(("alpha", "expected"), [(0.05, 1), (0.0499, 0), (0.1, 2), (0.95, 19), (1.0, 19)])
def test_at_most_so_many_p_values_are_small(alpha: float, expected: int) -> None:
    assert num_small_p_values(19, alpha) == expected


def test_a_level_is_kept_to_a_billionth() -> None:
    level = 0.05
    assert at_most(level * (1 + 0.9e-9), level)
    assert not at_most(level * (1 + 1.5e-9), level)
    assert at_most(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.3])).tolist() == [True, False, True]


def test_a_calibration_is_named_by_its_scores_as_little_endian_float32() -> None:
    scores = np.array([1.0, 2.5], np.float32)
    expected = hashlib.sha256(struct.pack("<2f", 1.0, 2.5)).hexdigest()
    assert sha256_of_scores(scores) == sha256_of_scores(scores.astype(">f4")) == expected


@pytest.mark.parametrize(
    ("p", "flagged"),
    [
        ([0.06], [False]),
        ([0.05], [True]),
        ([0.9, 0.02, 0.051, 0.03], [False, False, False, False]),
        ([0.9, 0.01, 0.051, 0.025], [False, True, False, True]),
        ([0.05, 0.9, 0.04, 0.04], [False, False, False, False]),
        ([0.05, 0.05, 0.04, 0.04], [True] * 4),
        ([0.0375, 0.9, 0.0375, 0.0375], [True, False, True, True]),
        ([], []),
    ],
)
def test_benjamini_hochberg_by_hand(p: list[float], flagged: list[bool]) -> None:
    found = rejected(np.array(p), 0.05)
    assert (found.dtype, found.tolist()) == (np.bool_, flagged)


@pytest.mark.parametrize("num", [1, 2, 3, 9])
@pytest.mark.parametrize("adjustment", ["simes", "dkwm", "monte_carlo"])
def test_the_most_typical_row_has_a_conditional_p_value_of_one_and_nothing_is_at_most_less(
    num: int, adjustment: Adjustment
) -> None:
    b = adjustments(num, 0.1, adjustment)
    places = np.arange(1, num + 2) / (num + 1)
    np.testing.assert_array_equal(conditional_p_values(places, num, 0.1, adjustment), b)
    assert conditional_p_values(np.ones(1), num, 0.1, adjustment).tolist() == [1.0]
    assert at_most(0.0, 0.0)


@pytest.mark.parametrize(
    ("p", "num", "expected"),
    [(0.5, 99, (1 + 24.75**0.5) / 100), (0.0, 9, 0.1), (1.0, 9, 0.1), (0.2, 24, (1 + 3.84**0.5) / 25)],
)
def test_p_values_scatter_by_a_rank_and_the_deviation_of_a_rank(p: float, num: int, expected: float) -> None:
    np.testing.assert_allclose(scatter(p, num), expected, rtol=1e-8)
    np.testing.assert_allclose(scatter(np.array([p, p]), num), [expected, expected], rtol=1e-8)


def test_scatter_is_how_far_another_calibration_set_moves_p() -> None:
    rng = np.random.default_rng(0)
    p = np.array([p_values(np.array([1.0]), np.sort(rng.standard_normal(200)))[0] for _ in range(4000)])
    np.testing.assert_allclose(p.std() + 1 / 201, scatter(p.mean(), 200), rtol=0.05)


@pytest.mark.parametrize(
    ("got", "holds"), [(0.25, True), (0.75, True), (0.7500000001, True), (0.751, False), (0.249, False)]
)
def test_a_move_holds_up_to_what_is_allowed(got: float, holds: bool) -> None:
    assert Move("knn", got, 0.5, 0.25).holds is holds


def test_a_move_says_what_moved() -> None:
    assert str(Move("knn", 0.12345, 0.5, 0.0625)) == "p by knn is 0.123, expected 0.5 +- 0.062"


def test_the_worst_move_is_the_largest_beside_what_is_allowed() -> None:
    calibration = {"a": np.arange(99.0), "b": np.arange(99.0)}
    expected = np.array([[98.5, 49.5], [10.5, 49.5], [10.5, 49.5]])
    got = np.array([[93.5, 49.5], [10.5, 42.5], [10.5, 42.5]])  # five ranks near p = 0, seven in the middle
    move = worst_move(got, expected, calibration)
    assert (move.detector, move.got, move.expected) == ("a", 0.06, 0.01)
    np.testing.assert_allclose(move.allowed, scatter(0.01, 99))
    of_b = worst_move(np.array([[98.5, 42.5]]), np.array([[98.5, 49.5]]), calibration)
    assert (of_b.detector, of_b.got, of_b.expected) == ("b", 0.57, 0.5)
    still = worst_move(expected, expected, calibration)  # of equal ones the first
    assert (still.detector, still.got, still.holds) == ("a", 0.01, True)


def test_where_nobody_decides_p_values_may_move() -> None:
    """Of a model that gives images back hundreds of calibration rows may share the lowest score, but for rounding."""
    calibration = {"a": np.r_[np.linspace(0, 1e-6, 9), np.arange(1.0, 91.0)]}
    lowest, above = np.array([[-1.0]]), np.array([[0.5]])
    assert p_values(lowest[:, 0], calibration["a"])[0] - p_values(above[:, 0], calibration["a"])[0] > 0.08
    assert worst_move(lowest, above, calibration).holds
    assert worst_move(above, lowest, calibration).holds
    assert not worst_move(np.array([[30.5]]), above, calibration).holds


def test_without_a_detector_no_p_value_moves() -> None:
    with pytest.raises(ValueError, match="sorted_calibration: got no detector, expected at least one"):
        worst_move(np.zeros((1, 0)), np.zeros((1, 0)), {})
