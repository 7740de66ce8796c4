"""Rules for weights, compared on scores that were kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.results.deciding import AGAINST, DAMAGED, NAMES, REFERENCE, TEST, Options, lines, main


def kept() -> dict[str, np.ndarray]:
    """Of three detectors the first sees damage and faults, the last nothing."""
    rng = np.random.default_rng(0)

    def scores(num: int, seen: float) -> np.ndarray:
        return (rng.standard_normal((num, 3)) + np.array([seen, seen / 4, 0])).astype(np.float32)

    return {
        NAMES: np.array(["sees", "hardly", "blind"]),
        REFERENCE: scores(400, 0),
        TEST: scores(300, 0),
        DAMAGED + "scar": scores(100, 2),
        DAMAGED + "spot": scores(100, 1),
        AGAINST + "faults": scores(300, 2),
    }


def test_each_rule_has_its_row_and_blind_detectors_cost_the_weighted_sum_little() -> None:
    arrays = kept()
    found = {cells[1].strip(): cells[2:] for line in lines(arrays) if len(cells := line.split("|")) > 3}
    of_rule = {name: float(cells[0]) for name, cells in found.items() if name not in ("score", "detector", "---")}
    sees = roc_auc_score(np.repeat([0, 1], 300), np.r_[arrays[TEST][:, 0], arrays["against faults"][:, 0]])
    assert float(found["best of all"][0]) == pytest.approx(sees, abs=1e-4)
    assert of_rule["weighted"] > max(of_rule["cauchy"], of_rule["equal weights"])
    assert of_rule["the one of most power"] == pytest.approx(sees, abs=0.005)
    assert of_rule["blind"] < 0.01 < of_rule["sees"]  # weights: the second table
    assert "spot" not in "".join(lines(arrays, without=("spot",)))


def test_the_command_reads_what_was_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "model.npz", **kept())  # type: ignore[arg-type]
    assert main(Options((tmp_path / "model.npz",))) == 0
    assert "| weighted | 0." in capsys.readouterr().out
