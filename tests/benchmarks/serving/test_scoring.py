"""What a score costs: which graphs are timed, and how the table reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.scoring import BATCHES, RESULTS, Cost, Options, Recorded, costs, main, table
from latentserve import records

ROOT = Path(__file__).resolve().parents[3]


def test_every_graph_of_a_bundle_is_timed_at_every_batch_size(bundle_folder: Path) -> None:
    found = costs(bundle_folder)
    assert [cost.rows for cost in found] == list(BATCHES)
    for cost in found:
        assert list(cost.milliseconds) == ["encoder", "decoder", "scorer"]
        assert min(cost.milliseconds.values()) > 0
        assert cost.ratio > 1


def test_the_ratio_is_all_graphs_over_the_encoder_or_the_pass() -> None:
    cost = Cost("m/1", 64, 9, 2_500_000, 8, {"encoder": 2.0, "scorer": 1.0})
    assert (cost.ratio, cost.beside_pass) == (1.5, 1.5)
    assert Cost("m/1", 64, 9, 1, 8, {"encoder": 1.0, "decoder": 1.0, "scorer": 3.0}).beside_pass == 2.5
    assert table(Recorded((cost,))).splitlines()[-1] == "| m/1 | 64 | 9 | 2.5 | 8 | 2.00 |  | 1.00 | 1.5 | 1.5 |"


def test_what_is_recorded_is_what_the_page_says() -> None:
    """Made with `python -m benchmarks.serving.scoring --table`."""
    page = (ROOT / "docs" / "operating.md").read_text()
    for line in table(records.read(Recorded, RESULTS)).splitlines():
        assert line in page


def test_without_a_bundle_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options()) == 2
    assert "expected at least one" in capsys.readouterr().err


def test_the_figures_in_the_readme_are_the_recorded_ones() -> None:
    after = [cost for cost in records.read(Recorded, RESULTS).costs if "after" in cost.bundle]
    (one, many) = ({cost.rows: cost.milliseconds for cost in after}[rows] for rows in (1, 64))
    said = [f"{of['scorer']:.2f}{{}} beside {of['encoder']:.2f}" for of in (one, many)]
    page = (ROOT / "README.md").read_text()
    assert f"{said[0].format(' ms')} for an image, {said[1].format('')} for 64" in page
