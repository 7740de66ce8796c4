"""The soak in short, and what it would say if something were wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import __main__ as soak
from benchmarks.soak.faults import FAULTS
from benchmarks.soak.ledger import Excuse, Ledger, Question
from benchmarks.soak.machine import Others
from benchmarks.soak.memory import Growth, growth


@pytest.mark.slow
def test_every_fault_once_leaves_every_answer_right(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak` does the same for half an hour."""
    monkeypatch.setattr(soak, "RESULTS", tmp_path / "soak.json")
    every = 3.0
    options = soak.Options(repository, (every * (len(FAULTS) + 1) + 4) / 60, every, rate=60, record=True)
    assert soak.main(options) == 0, capsys.readouterr().out
    told = json.loads((tmp_path / "soak.json").read_text())
    assert told["faults"].keys() == FAULTS.keys()
    assert min(told["faults"].values()) >= 1
    assert (told["wrong"], told["unexplained"]) == ({}, {})
    assert min(told["right"][name] for name in ("embed 1 row", "embed, newest", "score 1 row", "embed PNG")) > 100


def question(**excuses: str) -> Question:
    return Question("q", "Embed", b"", {b"right"}, excuses=excuses)


def figures(ledger: Ledger, minutes: float = 1.0, slope: float = 0.0, disturbed: float = 0.0) -> soak.Figures:
    told = (dict(ledger.right), dict(ledger.wrong), dict(ledger.explained()), dict(ledger.unexplained()))
    return soak.Figures(minutes, 0, 1, 1, *told, {}, Growth(slope, slope, slope, 1, 1, 1), 0, disturbed)


def test_an_answer_is_right_or_wrong_to_the_last_bit() -> None:
    ledger = Ledger()
    ledger.note(question(), 0, "0", b"right")
    assert soak.missed(figures(ledger)) == []
    ledger.note(question(), 0, "0", b"righu")
    assert (ledger.right, ledger.wrong) == ({"q": 1}, {"q": 1})
    assert soak.missed(figures(ledger)) == ["missed: 1 wrong answers"]


def test_a_failure_is_explained_by_what_was_done_meanwhile_or_not_at_all() -> None:
    ledger = Ledger(excuses=[Excuse("stopped", 10, 11, frozenset({"4"}))])
    ledger.note(question(), 5, "4", b"")  # it ends now, long after 11
    ledger.note(question(), 12, "4", b"")
    ledger.note(question(), 5, "13", b"")
    ledger.note(question(**{"5": "it has gone"}), 12, "5", b"")
    assert ledger.explained() == {"stopped": 1, "it has gone": 1}
    assert ledger.unexplained() == {"q: status 4": 1, "q: status 13": 1}
    assert soak.missed(figures(ledger)) == ["missed: 2 failures that nothing explains"]


def test_what_a_fault_did_not_see_is_a_failure() -> None:
    ledger = Ledger(told=["a good version: after 20 s not version 2"])
    assert soak.missed(figures(ledger)) == ["missed: 1 failures that nothing explains"]


@pytest.mark.parametrize("slope", [0.0, 1.0, 100.0])
def test_growth_is_the_slope_with_its_interval(slope: float) -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(0, 1800, 2.0)
    found = growth([(float(at), 200 + slope * at / 3600 + float(rng.normal())) for at in seconds])
    assert found.low < slope < found.high
    assert found.mb_per_hour == pytest.approx(slope, abs=1.0)
    assert found.high - found.low < 2
    assert found.hours == pytest.approx(0.5, rel=0.01)


def test_growth_is_checked_over_half_an_hour_alone() -> None:
    assert soak.missed(figures(Ledger(), minutes=5, slope=9.0)) == []
    assert soak.missed(figures(Ledger(), minutes=30, slope=9.0)) == ["missed: memory grows by 9.00 MB an hour"]
    assert soak.missed(figures(Ledger(), minutes=30, slope=9.0, disturbed=3.1)) == []
    assert growth([]).mb_per_hour == growth([(0.0, 5.0)]).mb_per_hour == 0.0


def test_an_overload_is_excused_only_while_others_take_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(0, 0, 0), (100, 1000, 0), (500, 2000, 0), (1400, 3000, 900)])
    monkeypatch.setattr(Others, "_ticks", lambda self: next(ticks))
    monkeypatch.setattr("benchmarks.soak.machine.LOOK_SECONDS", 0.0)
    others = Others(1)
    excused = []
    for _ in range(3):  # a tenth is theirs, then two fifths; then all is busy, but with us
        others.look()
        excused.append(len(others.excuses))
    assert excused == [0, 1, 1]
    ledger = Ledger(excuses=others.excuses)
    for code in ("4", "8", "13"):
        ledger.note(question(), others.excuses[0].start, code, b"")
    assert ledger.unexplained() == {"q: status 13": 1}
