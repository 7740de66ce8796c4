"""The check of the promises can fail."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.results import calibration
from latentserve.conformal import conditional_p_values, p_values


@pytest.fixture(autouse=True)
def few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "NUM_SPLITS", 60)


SCORES = np.random.default_rng(0).gamma(2.0, size=6000).astype(np.float32)
OOD = SCORES[:2000] + 9


def conditional(p: Any) -> Any:
    return conditional_p_values(p, 1000, 0.1, "simes")


@pytest.mark.parametrize("alpha", calibration.ALPHAS)
def test_promises_that_are_kept_are_found_kept(alpha: float) -> None:
    alarms = calibration._false_alarms("m", SCORES, 1000, alpha)
    assert alarms.kept
    assert alarms.rate == pytest.approx(alpha, rel=0.1)
    assert alarms.broken > 0.2  # a marginal promise is one about the mean
    careful = calibration._conditional("m", SCORES, 1000, alpha, 0.1, conditional)
    assert careful.kept
    assert careful.rate < alpha
    discoveries = calibration._false_discoveries("m", SCORES, OOD, 1000, alpha)
    assert discoveries.kept
    assert discoveries.rate < alpha


def test_promises_that_are_broken_are_found_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any, by: float) -> Any:
        return p_values(*arguments) * by

    monkeypatch.setattr(calibration, "p_values", partial(wrong, by=0.7))
    assert not calibration._false_alarms("m", SCORES, 1000, 0.05).kept
    assert not calibration._conditional("m", SCORES, 1000, 0.05, 0.1, lambda p: p).kept
    monkeypatch.setattr(calibration, "p_values", partial(wrong, by=1.5))
    assert not calibration._false_alarms("m", SCORES, 1000, 0.05).kept  # too few alarms are wrong too
    monkeypatch.setattr(calibration, "rejected", lambda p, alpha: p <= alpha)
    monkeypatch.setattr(calibration, "p_values", p_values)
    assert not calibration._false_discoveries("m", SCORES, OOD, 1000, 0.1).kept
