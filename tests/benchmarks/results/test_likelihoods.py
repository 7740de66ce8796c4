from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.results import likelihoods
from benchmarks.results.likelihoods import RECORD, Finding, Options, Recorded, findings, main, table
from latentserve import records


def test_a_set_is_a_row_and_a_detector_a_column() -> None:
    found = Recorded((Finding("small", "mnist", "abc", "noise", {"likelihood": 0.25, "deciding": 1.0}),), 10)
    *_, row = table(found).splitlines()
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["small", "mnist", "noise", "0.250", "", "", "", "1.000"]


def test_each_detector_s_figure_comes_from_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first detector of a bundle decides."""
    names = ("weighted", "likelihood", "typicality")
    manifest = SimpleNamespace(
        name="small",
        detectors=[SimpleNamespace(name=name) for name in names],
        provenance=SimpleNamespace(data="cifar10", git_revision="abc"),
    )
    rows = [
        SimpleNamespace(detector=name, against=against, figures=SimpleNamespace(auroc=len(name) + len(against)))
        for against in ("mnist", *likelihoods.SETS)
        for name in names
    ]
    monkeypatch.setattr("benchmarks.results.likelihoods.bundle.load", lambda _: manifest)
    monkeypatch.setattr(
        "benchmarks.results.likelihoods.examine", lambda folder, against, num: (SimpleNamespace(rows=rows), {})
    )
    first, *others = findings(Path("bundle"))
    assert first == Finding("small", "cifar10", "abc", "mnist", {"likelihood": 15, "typicality": 15, "deciding": 13})
    assert [one.against for one in others] == list(likelihoods.SETS)
    manifest.detectors = manifest.detectors[:1]
    with pytest.raises(ValueError, match="got a bundle without likelihood, expected one of a density"):
        findings(Path("bundle"))


def test_without_bundles_it_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options()) == 2
    assert "bundles: got none" in capsys.readouterr().err


def test_the_page_of_densities_holds_what_is_recorded() -> None:
    """Made with `python -m benchmarks.results.likelihoods --table`."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "methods" / "densities.md").read_text()
    assert table(records.read(Recorded, RECORD)) in page
