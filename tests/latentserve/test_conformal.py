from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from latentserve.conformal import p_values

SCORES = st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_p_is_the_definition_counted_by_hand(calibration: list[float], scores: list[float]) -> None:
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    np.testing.assert_allclose(p_values(np.array(scores), np.sort(calibration)), expected)


def test_what_is_no_number_gets_the_smallest_p_value() -> None:
    p = p_values(np.array([np.nan, np.inf, -np.inf]), np.arange(9.0))
    np.testing.assert_allclose(p, [0.1, 0.1, 1.0])


def test_false_alarms_are_at_most_alpha_whatever_the_scores() -> None:
    rng = np.random.default_rng(0)
    flagged = []
    for _ in range(400):
        drawn = rng.pareto(1.0, 300)
        flagged.append(p_values(drawn[100:], np.sort(drawn[:100])) <= 0.1)
    # E = floor(0.1 * 101) / 101 = 0.099; 400 draws of Beta(10, 91) give a standard error of 0.0015
    assert 0.094 < np.mean(flagged) < 0.104
