"""MobileNetV2 on CIFAR-10, rehearsed: small images of ten kinds, and a server that is none."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.encoders_brought import cifar10
from benchmarks.encoders_brought.cifar10 import RECORD, Figures, Options, Split, measure, scorer_of, table
from latentserve import records
from training.data import Data, Rows

SIZES = {13: 3, 16: 4, 17: 6, 18: 8}
STAGES_D = sum(SIZES.values())
BLOCK17 = slice(3 + 4, 3 + 4 + 6)
STEP = 2**-8
"""Between two scores of some 40,000 in float32: CPUs round products of matrices each in their way."""


def images(num: int, seed: int) -> Rows:
    """Of ten kinds, each of colours of its own, in noise."""
    rng = np.random.default_rng(seed)
    labels_N = np.arange(num) % 10
    colours = np.random.default_rng(7).integers(40, 216, (10, 1, 1, 3))
    noise = rng.integers(-20, 20, (num, 8, 8, 3))
    return Rows((colours[labels_N] + noise).astype(np.uint8), labels_N)


DATA = Data("cifar10", images(400, 0), images(60, 1), images(200, 2))


def embedding(values: Any) -> Any:
    """As the network would: each row by itself."""
    weights = np.random.default_rng(3).normal(size=(8 * 8 * 3, STAGES_D)).astype(np.float32)
    return np.asarray(values, np.float32).reshape(len(values), -1) / 255 @ weights


class Server:
    """Stands in for a client and its server.

    Args:
        off: added to what it says by `block17`.
    """

    def __init__(self, off: float = 0.0) -> None:
        self.off, self.asked = off, 0

    def embed(self, rows: Any, model: str) -> Any:
        self.asked += len(rows)
        return embedding(rows) if model == "stages" else embedding(rows)[:, BLOCK17] + self.off

    def score(self, rows: Any, model: str) -> Any:
        assert model == "block17"
        rows_of_0 = np.flatnonzero(DATA.train.labels_N == 0)
        scorer = scorer_of(Split(DATA.train.values, embedding(DATA.train.values), rows_of_0), DATA.train.labels_N == 0)
        given = Split(rows, embedding(rows), np.zeros(len(rows), np.int64)).tensors(np.arange(len(rows)))
        order = list(reversed(range(len(scorer.names))))  # whatever order the bundle has them in
        names = tuple(scorer.names[place] for place in order)
        return SimpleNamespace(detectors=names, scores=scorer.scores(given)[:, order] + self.off)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STAGES", SIZES), ("FEW_LABELS", 100), ("ONE_CLASS_TEST", 150), ("CHECKED", 20)):
        monkeypatch.setattr(cifar10, name, value)
    monkeypatch.setattr(cifar10, "load_data", lambda *_: DATA)
    monkeypatch.setattr(cifar10, "ServedProcess", lambda *_: nullcontext(SimpleNamespace(target="nowhere")))


def measured(server: Server, work: Path, monkeypatch: pytest.MonkeyPatch) -> Figures:
    imported: list[tuple[str, str]] = []
    monkeypatch.setattr(cifar10, "imported", lambda _, name, data: imported.append((name, data)))
    monkeypatch.setattr(cifar10, "Client", lambda _: nullcontext(server))
    found = measure(Options(work=work))
    assert imported == [("stages", "digits"), ("block17", "cifar10[label=0]")]
    return found


def test_kinds_that_are_easily_told_apart_are_and_the_server_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    found = measured(server, tmp_path, monkeypatch)
    assert set(found.linear) == {f"{kind}, {num} labels" for kind in ("block 18", "stages") for num in (100, 460)}
    assert min(found.linear.values()) > 0.8
    assert found.one_class["knn"] > 0.9
    assert found.one_class["knn"] == pytest.approx(np.mean(found.by_class))
    assert (found.num_train, found.num_test, len(found.by_class)) == (460, 200, 10)
    assert found.block17_error == pytest.approx(0, abs=1e-5)
    assert found.score_error == pytest.approx(0, abs=STEP)
    assert server.asked == 460 + 200 + 20
    assert "| block 18, 460 labels |" in table(found)


def test_a_server_that_says_otherwise_is_seen_and_what_it_embedded_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in (("train", DATA.train), ("calibration", DATA.calibration), ("test", DATA.test)):
        np.save(tmp_path / f"{name}.npy", embedding(rows.values))
    server = Server(off=0.5)
    found = measured(server, tmp_path, monkeypatch)
    assert server.asked == 20
    assert found.block17_error == pytest.approx(0.5, abs=1e-4)
    assert found.score_error == pytest.approx(0.5, abs=STEP)


def test_what_a_killed_import_left_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(cifar10.subprocess, "run", lambda command, **_: commands.append(command))
    (tmp_path / "models" / "stages" / ".1.new").mkdir(parents=True)
    (tmp_path / "models" / "block17" / "1").mkdir(parents=True)
    (tmp_path / "models" / "block17" / "1" / "bundle.json").touch()
    for name in ("stages", "block17"):
        cifar10.imported(Options(work=tmp_path), name, "digits")
    assert [command[command.index("--name") + 1] for command in commands] == ["stages"]


def test_what_is_recorded_is_what_the_issue_asks_for() -> None:
    found = records.read(Figures, RECORD)
    assert found.linear["stages, 10,000 labels"] >= 0.74
    assert found.linear["stages, 50,000 labels"] >= 0.78
    assert found.one_class["knn"] >= 0.90
    assert max(found.block17_error, found.score_error) < 1e-3
