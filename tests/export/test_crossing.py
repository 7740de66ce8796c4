"""Cross-conformal calibration: no row is scored by detectors that saw it, and alarms are as many as promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.crossing import FOLDS, crossed, dealt
from export.detectors import Scorer
from export.detectors.directions import Directions
from export.detectors.power import Power
from latentserve.conformal import at_most, p_values


def usual(num: int, seed: int, dim: int = 6) -> dict[str, Any]:
    return {"embedding": np.random.default_rng(seed).normal(1, 1, (num, dim)).astype(np.float32)}


def test_folds_part_no_unit_and_one_row_of_each_calibrates() -> None:
    units = np.repeat(np.arange(23), [1 + i % 3 for i in range(23)])
    folds, one_each = dealt(units, FOLDS)
    assert sorted(units[one_each]) == list(range(23))
    assert all(len(set(folds[units == unit])) == 1 for unit in range(23))
    assert np.bincount(folds[one_each]).max() - np.bincount(folds[one_each]).min() <= 1
    assert dealt(np.arange(3), FOLDS)[0].max() == 2
    with pytest.raises(ValueError, match="got 1 units, expected 2 or more"):
        dealt(np.zeros(4, np.int64), FOLDS)


def test_scores_are_those_of_fits_that_saw_nothing_of_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = usual(40, 0)
    rows["embedding"][31] = rows["embedding"][4]  # twins are one unit
    seen: list[set[bytes]] = []
    fit = Directions.fit

    def noted(embedding: Any, shortest: float) -> Directions:
        seen.append({row.tobytes() for row in embedding})
        return fit(embedding, shortest)

    monkeypatch.setattr(Directions, "fit", noted)
    units = np.arange(40)
    units[31] = 4
    found = crossed(None, rows, units)
    folds, one_each = dealt(units, FOLDS)
    assert found.rows.tolist() == one_each.tolist()
    assert found.scores.shape == (39, len(found.scorer.names))
    _, *of_folds = seen
    for fold, rows_seen in enumerate(of_folds):
        assert not rows_seen & {rows["embedding"][row].tobytes() for row in np.flatnonzero(folds == fold)}
    assert not np.allclose(found.scores, found.scorer.scores({"embedding": rows["embedding"][one_each]}))


def test_every_fit_has_as_many_reference_rows_and_the_weights_of_the_served_one() -> None:
    fits: list[tuple[Any, Any]] = []

    class Noted(Scorer):
        pass

    fit = Scorer.fit.__func__  # type: ignore[attr-defined]

    def noted(cls: Any, *given: Any, **named: Any) -> Any:
        fits.append((len(named["chosen"].reference), named["power"]))
        return fit(cls, *given, **named)

    power = Power(np.linspace(0.6, 0.9, 5), np.linspace(0.6, 0.9, 5)[None], 50, np.array([50]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Scorer, "fit", classmethod(noted))
        found = crossed(None, usual(60, 1), power=power)
    assert len(fits) == FOLDS + 1
    assert {num for num, _ in fits} == {9}  # a fifth of 48
    assert all(of is power for _, of in fits)
    assert found.scorer.names[0] == "weighted"
    assert found.scores_of(found.scorer.deciding("knn"))[:, 0].tolist() == (
        found.scores[:, found.scorer.names.index("knn")].tolist()
    )


def test_alarms_on_new_rows_are_as_many_as_promised_and_not_many_fewer() -> None:
    """Of 12 deals of 40 rows; by the scores of rows that detectors were fitted on it would be about twice as many."""
    alarms, naive = [], []
    for deal in range(12):
        found = crossed(None, usual(40, 100 + deal, 12))
        column = found.scorer.names.index("mahalanobis")
        new = found.scorer.scores(usual(300, 5000 + deal, 12))[:, column]
        alarms.append(at_most(p_values(new, np.sort(found.scores[:, column])), 0.1).mean())
        own = found.scorer.scores(usual(40, 100 + deal, 12))[:, column]
        naive.append(at_most(p_values(new, np.sort(own)), 0.1).mean())
    assert 0.04 < np.mean(alarms) < 0.1 + 2 * np.std(alarms) / 12**0.5
    assert np.mean(naive) > np.mean(alarms) + 0.05
