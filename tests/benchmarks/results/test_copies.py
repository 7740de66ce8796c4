from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.results import copies
from benchmarks.results.copies import ALPHAS, CASES, RESULTS, Recorded, counted_of, draw, measure
from latentserve import records


def test_what_is_recorded_is_every_case_and_was_kept() -> None:
    recorded = records.from_json(Recorded, json.loads(RESULTS.read_text()))
    assert [(one.case, one.alpha) for one in recorded.counted] == [(c.name, a) for c in CASES for a in ALPHAS]
    assert all(one.kept and one.draws == 20 for one in recorded.counted)
    broken = [one for one in recorded.counted if one.parted is not None and one.alpha == 0.05]
    assert all(one.parted is not None and one.parted > one.high for one in broken)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_draw_is_split_by_picture(case: copies.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PICTURES", 200)
    data, new = draw(case, 0)
    assert len(new) == 2000
    assert [len(data.calibration), len(data.test)] == [20, 20]
    parted, _ = draw(case, 0, parted=True)
    assert sum(map(len, (parted.train, parted.calibration, parted.test))) == 200 * case.copies + case.frozen


def test_a_rate_outside_its_band_is_seen() -> None:
    assert counted_of("", 0.05, 99, [0.05] * 20, None).kept
    assert not counted_of("", 0.05, 99, [0.08] * 20, None).kept
    assert not counted_of("", 0.05, 99, [0.01] * 16 + [0.25] * 4, None).kept


def test_a_case_is_measured_at_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    p = np.arange(1, 101) / 101
    monkeypatch.setattr(copies, "p_of_new", lambda data, new: (p, 100))
    counted = list(measure(CASES[1], 1))
    assert [one.rate for one in counted] == pytest.approx([0.01, 0.05, 0.1])
    assert [one.parted for one in counted] == pytest.approx([0.01, 0.05, 0.1])
