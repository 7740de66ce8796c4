from __future__ import annotations

import pytest

from service.scheduling.pace import Pace


def test_overhead_and_cost_of_a_row_are_told_apart() -> None:
    pace = Pace()
    for rows in (1, 8, 32, 64, 3):
        pace.learn(rows, 0.010 + 0.002 * rows)
    assert pace.seconds(16) == pytest.approx(0.042)
    assert pace.slow_seconds(16) == pytest.approx(1.25 * 0.042)
    assert pace.rows_within(0.0905) == 40
    assert pace.rows_within(0.001) == 1


def test_batches_all_alike_tell_a_price_per_row() -> None:
    pace = Pace()
    for _ in range(5):
        pace.learn(10, 0.1)
    assert pace.seconds(20) == pytest.approx(0.2)
    assert pace.rows_within(0.5) == 50


def test_the_past_is_forgotten() -> None:
    pace = Pace()
    assert not pace.known
    for seconds in [1.0] * 50 + [0.1] * 200:
        pace.learn(10, seconds)
    assert pace.seconds(10) == pytest.approx(0.1, rel=0.01)


def test_nonsense_of_noise_is_not_believed() -> None:
    pace = Pace()
    pace.learn(1, 0.5)  # the first batch was slow for a reason of its own
    pace.learn(64, 0.2)
    assert pace.seconds(64) > 0
    assert pace.rows_within(10) >= 64


def test_where_rows_cost_nothing_a_smaller_batch_saves_nothing() -> None:
    """Noise may even make it look dearer: that is no reason to believe that rows are all that costs."""
    for noise in (0.0, 0.001, -0.0001):
        pace = Pace()
        for rows in (64, 8, 64, 32, 64):
            pace.learn(rows, 0.1 - noise * rows / 64)
        assert pace.seconds(1) == pytest.approx(0.1, rel=0.02)
        assert pace.rows_within(0.05) == 1
        assert pace.rows_within(0.2) >= 64


def test_the_smallest_batch_worth_cutting_wastes_what_there_is_to_waste() -> None:
    pace = Pace()
    for rows in (64, 8, 32):
        pace.learn(rows, 0.004 + 0.00005 * rows)
    assert pace.smallest_worth_forming(64, share=0.25, credit=0.0) == 40  # 4 ms x 24/64 are a quarter of its 6 ms
    assert pace.smallest_worth_forming(64, share=0.25, credit=0.004) == 1
    assert pace.smallest_worth_forming(64, share=0.25, credit=-1.0) == 64
    alone = Pace()
    alone.learn(64, 0.1)  # rows are all that costs, as far as is known
    assert alone.smallest_worth_forming(64, share=0.25, credit=0.0) == 1


def test_where_batches_are_alike_a_larger_one_is_tried() -> None:
    """Else the first one decides: alone, it says that rows are all that costs, and a second row is never taken."""
    pace, rows, tried = Pace(), 1, []
    for _ in range(20):
        pace.learn(rows, 0.05 + 0.003 * rows)
        rows = min(pace.rows_within(0.1), 64)
        tried.append(rows)
    assert tried[0] == 2
    assert tried[-1] == 16


def test_a_single_slow_batch_of_another_size_is_not_believed_for_ever() -> None:
    pace = Pace()
    for rows, seconds in [(1, 0.05)] * 10 + [(2, 1.0)] + [(1, 0.05)] * 80:
        pace.learn(rows, seconds)
    assert pace.seconds(1) == pytest.approx(0.05, rel=0.1)
    assert pace.rows_within(0.06) == 2
