"""Detectors fitted anew on a bundle: its own names, its own data, and nothing of the bundle changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results.refit import Options, main
from latentserve import bundle


@pytest.mark.bench
@pytest.mark.slow
def test_each_column_of_a_bundle_stands_beside_what_it_is_now(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bundle.load(bundle_folder)
    assert main(Options((bundle_folder,), rows=60)) == 0
    out = capsys.readouterr().out
    for detector in manifest.detectors:
        (row,) = (line for line in out.splitlines() if line.startswith(f"| {detector.name} |"))
        for cell in row.split("|")[2:-1]:
            before, after = map(float, cell.split("->"))
            assert before == pytest.approx(after, abs=2e-4)  # the same code made both
    assert [line.split("|")[1].strip() for line in out.splitlines() if "/1 |" in line] == (
        ["digits-vae/1"] * 3 + ["digits-vae-anew/1"] * 3
    )
    assert bundle.load(bundle_folder) == manifest


def test_without_bundles_it_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options()) == 2
    assert "bundles: got none" in capsys.readouterr().err


def test_an_unknown_detector_is_told_before_anything_is_fitted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options((Path("nowhere"),), detectors=("nobody",))) == 2
    assert "detectors: got 'nobody', expected some of" in capsys.readouterr().err
