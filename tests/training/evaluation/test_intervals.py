from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, norm

from training.evaluation.intervals import auroc_interval, share_interval
from training.evaluation.separation import auroc


@pytest.mark.parametrize(("area", "num_id", "num_ood"), [(0.5, 60, 60), (0.9, 300, 1), (0.95, 100, 5)])
def test_the_interval_of_an_area_covers_it_as_often_as_it_says(area: float, num_id: int, num_ood: int) -> None:
    rng = np.random.default_rng(0)
    moved, covered = np.sqrt(2) * norm.ppf(area), 0
    for _ in range(400):
        found = auroc(rng.normal(size=num_id), rng.normal(moved, 1, num_ood))
        low, high = auroc_interval(found, num_id, num_ood)
        assert low <= found <= high
        covered += low <= area <= high
    assert covered >= 0.95 * 400 - 3 * np.sqrt(0.05 * 0.95 * 400)


def test_of_many_rows_the_interval_is_hanley_and_mcneils() -> None:
    area, num = 0.8, 5000
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (num - 1) * (q1 - area**2 + q2 - area**2)) / num**2
    low, high = auroc_interval(area, num, num)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.01)


def test_one_row_above_all_others_proves_little() -> None:
    low, high = auroc_interval(1.0, 300, 1)
    assert low < 0.5
    assert high == 1
    assert auroc_interval(0.0, 300, 1) == pytest.approx((0, 1 - low), abs=1e-9)


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    assert share_interval(3, 20) == pytest.approx((beta.ppf(0.025, 3, 18), beta.ppf(0.975, 4, 17)))
    assert share_interval(1, 1) == pytest.approx((0.025, 1))
    assert share_interval(0, 1) == pytest.approx((0, 0.975))
