"""Embedding goes on where it was stopped, and stops at what is no number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export import streaming
from export.graphs import ExportError, GraphRunner, Tensors
from export.streaming import UNFINISHED, Embedding, unfinished
from latentserve import bundle
from training.data import Rows


@pytest.fixture
def runner(bundle_folder: Path) -> GraphRunner:
    return GraphRunner(bundle_folder, bundle.load(bundle_folder).graphs.values())


@pytest.fixture
def rows(digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Embedded ten at a time."""
    monkeypatch.setattr(streaming, "batch_rows", lambda _: 10)
    return Rows(digits[:100])


def ticking() -> Any:
    """A clock on which every look is a minute later."""
    return iter(range(0, 10**6, 60)).__next__


def stopping_after(runner: GraphRunner, num_batches: int) -> GraphRunner:
    """As a process that is killed then."""

    class Stopping:
        graphs, folder, device = runner.graphs, runner.folder, runner.device

        def batches(self, rows: Any, num_rows: int | None = None) -> Iterator[Tensors]:
            for number, outputs in enumerate(runner.batches(rows, num_rows)):
                if number == num_batches:
                    raise KeyboardInterrupt
                yield outputs

    stopping: Any = Stopping()
    return stopping  # type: ignore[no-any-return]


def test_what_was_embedded_before_a_kill_is_not_embedded_again(
    runner: GraphRunner, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Embedding(None).run(runner, rows, "training")
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path) as embedding:
        Embedding(embedding.folder, ticking()).run(stopping_after(runner, 4), rows, "training")
    assert list((tmp_path / UNFINISHED).glob("*/*.npz"))
    with unfinished(tmp_path) as embedding:
        again = Embedding(embedding.folder, ticking()).run(stopping_after(runner, 6), rows, "training")
    assert "training rows: 40 of 100 rows were embedded before; going on" in capsys.readouterr().err
    assert again.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)
    assert not (tmp_path / UNFINISHED).exists()


def test_parts_of_other_rows_or_damaged_ones_are_not_taken(
    runner: GraphRunner, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Embedding(tmp_path, ticking()).run(stopping_after(runner, 4), rows, "training")
    Embedding(tmp_path).run(runner, Rows(rows.values[::-1].copy()), "training")
    assert "before" not in capsys.readouterr().err
    (first,) = tmp_path.glob("*/0.npz")
    first.write_bytes(first.read_bytes()[:-100])
    Embedding(tmp_path).run(runner, rows, "training")
    assert "before" not in capsys.readouterr().err


def test_an_embedding_that_is_no_number_is_told_with_its_file(runner: GraphRunner, rows: Rows) -> None:
    class Broken:
        graphs, folder, device = runner.graphs, runner.folder, runner.device

        def batches(self, rows: Any, num_rows: int | None = None) -> Iterator[Tensors]:
            for number, outputs in enumerate(runner.batches(rows, num_rows)):
                if number == 3:
                    outputs["embedding"][5, 0] = np.nan
                yield outputs

    broken: Any = Broken()
    with pytest.raises(ExportError, match="^test row 35: its embedding is not finite; no bundle was written$"):
        Embedding(None).run(broken, rows, "test")
    named = Rows(rows.values, names_N=np.array([f"{row}.png" for row in range(100)], np.object_))
    with pytest.raises(ExportError, match=r"^35\.png: its embedding"):
        Embedding(None).run(broken, named, "test")
