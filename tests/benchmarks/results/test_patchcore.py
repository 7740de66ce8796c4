"""Tests of benchmarks/results/patchcore.py, without anomalib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.results.patchcore import OURS, RECORD, THEIRS, Figures, Recorded, beside, lines, normalised
from latentserve import records

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results.md"


def test_both_sides_have_a_row_of_means_and_spreads() -> None:
    some = [Figures(side, seed, 0.8 + seed / 10, 0.7, 0.6, 5.0) for side in (OURS, THEIRS) for seed in (0, 1)]
    assert lines(Recorded("2.7.0", tuple(some)))[2:4] == [
        f"| {side} | 0.850 ± 0.071 | 0.700 ± 0.000 | 0.600 ± 0.000 | 5 |" for side in (OURS, THEIRS)
    ]


def test_what_is_recorded_stands_beside_other_seeds_of_the_same_anomalib() -> None:
    def of(version: str, value: float, *seeds: int) -> Recorded:
        return Recorded(version, tuple(Figures(OURS, seed, value, value, value, 1.0) for seed in seeds))

    found = beside(of("2", 0.9, 1, 2), of("2", 0.5, 0, 2, 3))
    assert [(one.seed, one.auroc) for one in found.figures] == [(0, 0.5), (1, 0.9), (2, 0.9), (3, 0.5)]
    assert beside(of("2", 0.9, 1), of("1", 0.5, 0)) == beside(of("2", 0.9, 1), None) == of("2", 0.9, 1)


def test_images_are_normalised_as_imagenets_are() -> None:
    grey = np.full((1, 2, 2, 3), 128, np.uint8)
    expected = (128 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalised(grey)[0, :, 0, 0].numpy(), expected, atol=1e-6)


def test_the_page_of_results_holds_what_is_recorded() -> None:
    page = RESULTS.read_text(encoding="utf-8")
    for line in lines(records.read(Recorded, RECORD)):
        assert line.startswith("Seeds") or line in page, line
