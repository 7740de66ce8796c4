"""Bundles of sets that memory should not hold: the same bundles; and exports that were killed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.__main__ import main
from export.detectors import drawing
from export.graphs import ExportError, Tensors
from export.streaming import UNFINISHED, Embedding, to_fit_on, unfinished
from latentserve import bundle
from latentserve.lock import held
from training.data import Rows, decoding, load_data
from training.data.lazy import is_lazy

IMPORT = ["import", "python:tests.export.sources.tiny:places", "--image-size", "20x24", "--resize", "stretch"]
IMPORT += ["--embedding", "mean"]
ROWS = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Detectors need fewer rows than there are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, num in (("FIT_ROWS", 90), ("REFERENCE_ROWS", 20)):
        monkeypatch.setattr(drawing, name, num)
        monkeypatch.setattr(f"export.streaming.{name}", num)


def test_a_bundle_of_a_large_set_is_that_of_the_same_set_in_memory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*IMPORT, "--data", f"folder:{photos}", "--name", "tiny", "--to"]
    assert main([*command, str(tmp_path / "held"), "--report", "none"]) == 0
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    capsys.readouterr()
    assert main([*command, str(tmp_path / "lazy")]) == 0
    assert "110 of 160 training rows are embedded, drawn at random: 90 that detectors" in capsys.readouterr().err
    folders = [tmp_path / kind / "tiny" / "1" for kind in ("held", "lazy")]
    one, other = (bundle.load(folder) for folder in folders)
    assert one.embedding_space == other.embedding_space
    lazy = load_data(f"folder:{photos}", image_size="20x24", resize="stretch")
    assert is_lazy(lazy.train.values)
    assert all(lazy.has_fingerprint(made.provenance.data_sha256) for made in (one, other))
    assert [detector.name for detector in one.detectors] == [detector.name for detector in other.detectors]
    for name in (bundle.CALIBRATION, bundle.GOLDEN):
        arrays, again = (bundle.load_arrays(folder / name) for folder in folders)
        assert arrays.keys() == again.keys()
        for tensor, array in arrays.items():
            np.testing.assert_array_equal(again[tensor], array)
    assert one.files["scorer.onnx"] == other.files["scorer.onnx"]
    measured = {evaluation.name for evaluation in other.evaluations}
    assert {"linear_probe_accuracy", "auroc_against_noise", "equivariance_flip"} <= measured
    assert not [*folders[1].parent.glob(".*")]
    assert main(["ood", str(folders[1]), "--against", "noise", f"folder:{photos}"]) == 0
    assert main(["evaluate", str(folders[1])]) == 0


def test_detectors_draw_the_same_rows_from_a_large_set(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_data(f"folder:{photos}", image_size=8)
    assert to_fit_on(whole) == (whole, None)
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    some, chosen = to_fit_on(load_data(f"folder:{photos}", image_size=8))
    assert chosen is not None
    assert is_lazy(some.train.values)
    expected = drawing.draw(len(whole.train), whole.train.units_N)
    for places, rows in zip(chosen, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(some.train.values[places]), whole.train.values[rows])


class Runner:
    """Stands in for graphs: the mean of each row; is killed after some batches."""

    def __init__(self, folder: Path, batches: int = 10**6) -> None:
        self.folder = folder
        self.device = "cpu"
        self.graphs = [SimpleNamespace(file="encoder.onnx")]
        self.left = batches
        self.seen = 0
        (folder / "encoder.onnx").touch()

    def batches(self, rows: Any, num_rows: int) -> Iterator[Tensors]:
        """One batch after another."""
        for start in range(0, len(rows), num_rows):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            part = np.asarray(rows[start : start + num_rows])
            self.seen += len(part)
            means_N1 = part.reshape(len(part), -1).mean(axis=1, dtype=np.float32)[:, None]
            yield {"embedding": means_N1, "patches": np.zeros((len(part), 1), np.float32)}


EXPECTED = ROWS.reshape(2000, -1).mean(axis=1, dtype=np.float32)[:, None]


def ticking() -> Any:
    """A clock by which each look at it takes ten seconds."""
    return iter(range(0, 10**6, 10)).__next__


def embedded(folder: Path, runner: Runner, rows: Any = ROWS) -> Tensors:
    given: Any = runner
    return Embedding(folder, ticking()).run(given, Rows(rows), "rows")


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of an embedding that was killed after three batches of five hundred, of which two were kept."""
    (tmp_path / "parts").mkdir()
    with pytest.raises(KeyboardInterrupt):
        embedded(tmp_path / "parts", Runner(tmp_path, 3))
    return tmp_path / "parts"


def test_embedding_goes_on_where_it_was_killed(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = Runner(tmp_path)
    found = embedded(killed, runner)
    assert found.keys() == {"embedding"}
    np.testing.assert_array_equal(found["embedding"], EXPECTED)
    assert runner.seen == 1000
    assert "rows: 1000 of 2000 rows were embedded before; going on" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["rows", "order", "graph", "part"])
def test_what_is_of_other_rows_or_graphs_or_damaged_is_not_taken(change: str, killed: Path, tmp_path: Path) -> None:
    runner, rows = Runner(tmp_path), ROWS
    if change == "rows":
        rows = ROWS.copy()
        rows[7, 0, 0, 0] ^= 1
    elif change == "order":
        rows = ROWS[::-1]
    elif change == "graph":
        (tmp_path / "encoder.onnx").write_text("another")
    else:
        for part in killed.rglob("*.npz"):
            part.write_bytes(part.read_bytes()[:-30])
    found = embedded(killed, runner, rows)
    assert runner.seen == 2000
    np.testing.assert_array_equal(found["embedding"], rows.reshape(2000, -1).mean(axis=1, dtype=np.float32)[:, None])


def test_parts_are_removed_when_a_bundle_is_complete_and_kept_until_then(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    given: Any = Runner(tmp_path, 3)

    def run() -> None:
        with unfinished(model) as embedding:
            embedding.clock = ticking()
            embedding.run(given, Rows(ROWS), "rows")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [*(model / UNFINISHED).rglob("*.npz")]
    with unfinished(model) as embedding, held(model):
        assert embedding.folder == model / UNFINISHED
    assert not (model / UNFINISHED).exists()
    with pytest.raises(ValueError, match="nothing"), unfinished(model):
        raise ValueError("nothing was embedded")
    assert not (model / UNFINISHED).exists()
    with unfinished(model), unfinished(model) as second:
        assert second.folder is None  # another process makes a bundle of this model


def test_a_disk_that_is_full_ends_no_export(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("no folder")
    np.testing.assert_array_equal(embedded(tmp_path / "parts", Runner(tmp_path))["embedding"], EXPECTED)


def test_an_embedding_that_is_no_number_is_told_with_its_file(tmp_path: Path) -> None:
    class Broken(Runner):
        def batches(self, rows: Any, num_rows: int) -> Iterator[Tensors]:
            for number, outputs in enumerate(super().batches(rows, num_rows)):
                outputs["embedding"][5, 0] = np.nan if number == 3 else 0
                yield outputs

    given: Any = Broken(tmp_path)
    with pytest.raises(ExportError, match="^test row 1505: its embedding is not finite; no bundle was written$"):
        Embedding(None).run(given, Rows(ROWS), "test")
    named = Rows(ROWS, names_N=np.array([f"{row}.png" for row in range(len(ROWS))], np.object_))
    with pytest.raises(ExportError, match=r"^1505\.png: its embedding"):
        Embedding(None).run(given, named, "test")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; the call is glibc's")
def test_memory_of_large_blocks_is_the_systems_again() -> None:
    """In a process of its own: glibc's bound moves once for all."""
    script = """
import re
import numpy as np
from export import streaming
resident = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
streaming._return_large_blocks()
np.ones(2**21)  # glibc would keep blocks of this size from now on
before = resident()
blocks = [(np.ones(2**20), np.ones(10_000)) for _ in range(30)]
small = [one for _, one in blocks]
blocks.clear()
print(f"MiB: {resident() - before:.0f}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = re.search(r"MiB: (-?\d+)", done.stdout)
    assert found is not None
    assert int(found[1]) < 50  # hundreds without the call
