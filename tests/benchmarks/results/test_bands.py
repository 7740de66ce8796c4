"""The band of the false-alarm rate, against a count; and the page that prints it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.results.bands import ALPHAS, ROWS, band, conditional_table, table
from latentserve.conformal import at_most, p_values

PAGE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "alpha.md"


@pytest.mark.parametrize(("num", "alpha"), [(100, 0.05), (200, 0.1), (1000, 0.01)])
def test_real_rates_lie_in_the_band_as_often_as_it_says(num: int, alpha: float) -> None:
    found = band(num, alpha)
    assert found is not None
    rng = np.random.default_rng(0)
    grid = (np.arange(20_000) + 0.5) / 20_000  # in-distribution scores by their quantiles: the rate without chance
    rates = [at_most(p_values(grid, np.sort(rng.random(num))), alpha).mean() for _ in range(2000)]
    inside = np.mean([found.low <= rate <= found.high for rate in rates])
    assert abs(inside - 0.95) < 0.02
    assert np.mean(rates) == pytest.approx(found.mean, rel=0.05)


@pytest.mark.parametrize("num", ROWS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_mean_is_at_most_alpha(num: int, alpha: float) -> None:
    found = band(num, alpha)
    assert (found is None) == (alpha < 1 / (num + 1))
    assert found is None or (found.low < found.mean < found.high and found.mean <= alpha)


def test_the_page_shows_what_the_command_prints() -> None:
    assert table() in PAGE.read_text()
    assert conditional_table() in PAGE.read_text()
