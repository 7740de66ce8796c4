"""The density's comparison: what it measures is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import density
from benchmarks.results.density import Options, main, measured
from latentserve import records


def test_trained_and_untrained_are_evaluated_on_the_same_sets(run_folder: Path) -> None:
    trained, untrained = measured(run_folder, ("noise", "digits"))
    assert (trained.embedding, untrained.embedding) == ("vae", "vae, untrained")
    assert trained.data == untrained.data == "digits"
    assert trained.auroc["digits"] == pytest.approx(0.5)  # the test rows themselves are in-distribution
    assert trained.auroc["noise"] != untrained.auroc["noise"]


def test_the_record_has_a_row_for_each_embedding(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(density, "RESULTS", tmp_path / "density.json")
    assert main(Options((run_folder,), against=("noise",), record=True)) == 0
    rows = records.read_json(tmp_path / "density.json")["rows"]
    assert [row["embedding"] for row in rows] == ["vae", "vae, untrained"]
    printed = capsys.readouterr().out
    assert all(f"{row['auroc']['noise']:.4f}" in printed for row in rows)


def test_the_page_of_results_holds_what_is_recorded() -> None:
    """Made with `python -m benchmarks.results.density --table`."""
    page = (Path(density.__file__).parents[2] / "docs" / "results.md").read_text()
    for line in density.over_seeds(records.read(density.Figures, density.RESULTS)):
        assert line in page, line
