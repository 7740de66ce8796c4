from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from service.observing.e_process import MOST_WEALTH, EProcess
from service.observing.ranks import Ranks

UNIT = st.floats(0.001, 0.999)


def stream_with_ranks(num_calibration: int, ranks: tuple[int, ...]) -> list[float]:
    """Calibration scores 0, 1, 2, ... and then scores that stand at these ranks among all before, 0 the most OOD."""
    scores = [float(i) for i in range(num_calibration)]
    for rank in ranks:
        ordered = [min(scores) - 1, *sorted(scores), max(scores) + 1]
        at = len(scores) - rank
        scores.append((ordered[at] + ordered[at + 1]) / 2)
    return scores[num_calibration:]


def test_a_bin_is_as_probable_as_its_interval_is_wide_over_every_order() -> None:
    """12 calibration rows and 3 more: 13 x 14 x 15 orders, all as probable. What is said of each next row is exact."""
    num, orders = 12, list(product(range(13), range(14), range(15)))
    found: Counter[tuple[int, ...]] = Counter()
    said: dict[tuple[int, ...], float] = {}
    wealth = np.zeros(3)
    for order in orders:
        ranks, process = Ranks(np.arange(num)), EProcess()
        places, probability = [], 1.0
        for i, score in enumerate(stream_with_ranks(num, order)):
            places.append(ranks.place(ranks.key(score)))
            low, high = ranks.interval(places[-1])
            assert low <= (order[i] + 0.5) / (num + 1 + i) <= high
            probability *= high - low
            ranks.learn(places[-1])
            process.bet(low, high)
            wealth[i] += process.wealth / len(orders)
        found[tuple(places)] += 1
        said[tuple(places)] = probability
    assert len(found) < len(orders)  # some bins are wider than one gap
    for places, count in found.items():
        assert said[places] == pytest.approx(count / len(orders))
    np.testing.assert_allclose(wealth, 1)  # a martingale, not just no more than 1


def test_ties_leave_ranks_uniform() -> None:
    calibration, stream = np.array([0, 1, 1, 1, 1, 2], np.float32), [1.0, 1.0, 0.0, 1.0]
    rng = np.random.default_rng(0)
    drawn = []
    for seed in range(1000):
        # Exchangeable: which of the ten scores come first is chance, too.
        scores = rng.permutation([*calibration, *stream])
        ranks = Ranks(scores[:6], seed)
        for score in scores[6:]:
            place = ranks.place(ranks.key(score))
            drawn.append(rng.uniform(*ranks.interval(place)))
            ranks.learn(place)
    p = np.array(drawn).reshape(-1, 4)
    assert stats.kstest(p.ravel(), "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(p.T) - np.eye(4)).max() < 4 / np.sqrt(len(p))


def test_a_score_that_is_not_finite_ranks_before_everything() -> None:
    ranks = Ranks(np.arange(10))
    for score in (float("nan"), float("inf"), float("-inf"), 1e30):
        assert ranks.place(ranks.key(score)) == 0
    assert ranks.interval(0) == (0, 1 / 11)  # of 1,000 rows it would be ten: no outlier decides alone
    assert Ranks(np.arange(1000)).interval(0) == (0, 10 / 1001)
    assert ranks.interval(ranks.place(ranks.key(-1e30)))[1] == 1


@settings(max_examples=40, deadline=None)
@given(history=st.lists(st.tuples(UNIT, UNIT), max_size=8), cuts=st.lists(UNIT, unique=True, max_size=5))
def test_every_bet_is_fair(history: list[tuple[float, float]], cuts: list[float]) -> None:
    """Whatever came before, however [0, 1] is cut into bins: the next row leaves the wealth as it is, on average."""
    bins = list(pairwise([0.0, *sorted(cuts), 1.0]))
    after = sum((high - low) * bet(*history, (low, high)) for low, high in bins)
    assert after == pytest.approx(bet(*history), rel=1e-9)


def bet(*intervals: tuple[float, float]) -> float:
    process = EProcess()
    for one, other in intervals:
        process.bet(min(one, other), max(one, other, min(one, other) + 1e-6))
    return process.wealth


def test_small_p_values_win_and_large_ones_lose() -> None:
    winning, losing = EProcess(), EProcess()
    for _ in range(50):
        winning.bet(0.01, 0.02)
        losing.bet(0.8, 0.9)
    assert winning.wealth > 1e10
    assert losing.wealth < 0.6


def test_wealth_is_kept_back_for_later() -> None:
    """However long the bettors have lost, some wealth has not been bet yet, and winnings are bounded."""
    process = EProcess()
    for _ in range(5000):
        process.bet(0.8, 0.9)
    assert process.wealth == pytest.approx(0.5 / 6, rel=0.01)
    for _ in range(60):
        process.bet(0.0, 0.01)
    assert MOST_WEALTH <= process.wealth < 1.01 * MOST_WEALTH
