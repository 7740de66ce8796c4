"""Training rows that look unlike the rest are named, and usual ones are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export import unusual as looking
from export.unusual import MOST_NAMED, say_unusual, unusual
from training.data.rows import Rows


def tensors(num: int, num_odd: int) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    embedding = (1 + rng.normal(0, 0.2, (num, 24))).astype(np.float32)
    for i in range(num_odd):  # each in a direction of its own: odd ones that are alike hide each other
        embedding[2 * i] += 8 * np.eye(24, dtype=np.float32)[3 * i]
    return {"embedding": embedding}


def test_the_odd_ones_are_found_and_of_usual_rows_none_is() -> None:
    assert sorted(unusual(tensors(300, 6)).tolist()) == [0, 2, 4, 6, 8, 10]
    assert len(unusual(tensors(300, 0))) == 0
    assert len(unusual(tensors(12, 2))) == 0  # too few to say


def test_rows_that_are_all_alike_are_not_odd() -> None:
    assert len(unusual({"embedding": np.ones((40, 4), np.float32)})) == 0


def test_the_first_few_are_named_and_no_line_is_said_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    names = np.array([f"part{i}.png" for i in range(300)], np.object_)
    rows = Rows(np.zeros((300, 2, 2, 1), np.uint8), names_N=names)
    found = say_unusual(rows, tensors(300, 7), "folder:parts")
    said = capsys.readouterr().err
    assert len(found) == 7
    assert said.startswith("folder:parts: 7 of 300 training rows look unlike the rest (part")
    assert said.count(".png") == MOST_NAMED
    assert ", ...)" in said
    say_unusual(rows, tensors(300, 0), "folder:parts")
    assert capsys.readouterr().err == ""


def test_of_large_rows_fewer_are_looked_at(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Rows(np.zeros((300, 2, 2, 1), np.uint8))
    monkeypatch.setattr(looking, "MOST_BYTES", 100 * 4)
    monkeypatch.setattr(looking, "DEVIATIONS", -np.inf)
    assert len(say_unusual(rows, tensors(300, 7), "folder:parts")) == 100
    assert "of 100 that were looked at" in capsys.readouterr().err
