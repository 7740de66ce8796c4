"""Cross-conformal calibration and p-values against the library nonconform: see nonconform_oracle.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import crossing
from export.crossing import crossed
from latentserve.conformal import conditional_p_values, p_values

SAID: dict[str, Any] = json.loads((Path(__file__).parent / "nonconform.json").read_text())


class Distance:
    """The oracle's detector in place of a scorer."""

    names, members, power = ("distance",), (), None

    def __init__(self, rows: Any) -> None:
        self.mean = rows.mean(0)

    @classmethod
    def fit(cls, model: object, tensors: Any, chosen: Any, **unused: Any) -> Distance:
        return cls(tensors["embedding"][np.concatenate([chosen.reference, chosen.fitted])])

    def scores(self, tensors: Any) -> Any:
        return np.linalg.norm(tensors["embedding"] - self.mean, axis=1)[:, None]


def test_rows_are_scored_by_the_other_folds_as_nonconform_scores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, folds = np.array(SAID["rows"]), np.array(SAID["folds"])
    monkeypatch.setattr(crossing, "dealt", lambda units_N, num_folds: (folds, np.arange(len(rows))))
    monkeypatch.setattr(crossing, "Scorer", Distance)
    found = crossed(None, {"embedding": rows})
    np.testing.assert_allclose(found.scores[:, 0], SAID["scores"], rtol=1e-12)


def test_p_values_are_those_of_nonconform() -> None:
    p = p_values(np.array(SAID["new_scores"]), np.sort(SAID["scores"]))
    np.testing.assert_allclose(p, SAID["p"], rtol=1e-12)
    assert len(set(SAID["p"])) > 15


def test_simes_p_values_are_those_of_nonconform_but_for_its_rounding() -> None:
    """It takes the floor of (n + 1) (1 - p), which floating point may make the next place: never a smaller p-value."""
    num, delta = len(SAID["scores"]), SAID["delta"]
    p, said = p_values(np.array(SAID["new_scores"]), np.sort(SAID["scores"])), np.array(SAID["simes"])
    next_place = conditional_p_values(np.minimum(p + 1 / (num + 1), 1), num, delta, "simes")
    ours = conditional_p_values(p, num, delta, "simes")
    same = np.isclose(ours, said, rtol=1e-9)
    np.testing.assert_allclose(next_place[~same], said[~same], rtol=1e-9)
    assert same.sum() > 15
