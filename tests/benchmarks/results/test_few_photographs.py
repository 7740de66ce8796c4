"""Tests of benchmarks/results/few_photographs.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results.few_photographs import RECORD, SIMCLR, STUDENT, Figures, Recorded, lines
from latentserve import records

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results.md"


def test_seeds_become_a_mean_and_their_deviation_of_each_number_of_photographs() -> None:
    some = [Figures(SIMCLR, num, seed, 0.4 + seed / 10, 0.3, 60.0) for num in (200, 500) for seed in (0, 1)]
    table = lines(Recorded(5000, 200, (*some, Figures(STUDENT, 500, 0, 0.6, 0.5, 30.0))))
    assert table[2:5] == [
        "| 200 | SimCLR | 0.450 ± 0.071 | 0.300 ± 0.000 | 1.0 |",
        "| 500 | SimCLR | 0.450 ± 0.071 | 0.300 ± 0.000 | 1.0 |",
        "| 500 | distilled from it | 0.600 | 0.500 | 0.5 |",
    ]


def test_the_page_of_results_holds_what_is_recorded() -> None:
    page = RESULTS.read_text(encoding="utf-8")
    for line in lines(records.read(Recorded, RECORD)):
        assert line.startswith("Seeds") or line in page, line
