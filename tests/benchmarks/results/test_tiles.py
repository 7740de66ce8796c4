"""Tests of benchmarks/results/tiles.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results.tiles import KINDS, RECORD, SIMCLR, Figures, Recorded, lines
from latentserve import records

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results.md"


def figures(seed: int, kind: str, auroc: float) -> Figures:
    return Figures(SIMCLR, seed, kind, 28, auroc, "knn", 0.9, 0.5, 0.1, 0.7, 0.4)


def test_seeds_become_a_mean_and_their_deviation() -> None:
    both = Recorded(tuple(figures(seed, kind, 0.8 + seed / 10) for seed in (0, 1) for kind in ("", *KINDS)), {})
    first = lines(both)[2]
    assert (
        first == "| SimCLR | all | 0.850 ± 0.071 | 0.900 ± 0.000 knn | 50.0% | 10.0% | 0.700 ± 0.000 | 0.400 ± 0.000 |"
    )


def test_the_page_of_results_holds_what_is_recorded() -> None:
    page = RESULTS.read_text(encoding="utf-8")
    for line in lines(records.read(Recorded, RECORD)):
        assert line.startswith("Seeds") or line in page, line
