"""Suites of out-of-distribution detection: what is trained, what is written, and the control."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import ood, reproduce
from benchmarks.results.ood import SUITES, Finding, Options, Recorded, Suite, bundles, encoders, lines, main


def finding(seed: int, auroc: float, data: str = "mnist", against: str = "others") -> Finding:
    return Finding(data, seed, against, "mahalanobis", auroc, 0.99, 0.5, 0.05)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_of_a_recipe_and_every_encoder_has_a_folder_of_its_own(name: str) -> None:
    if SUITES[name].bundle is not None:
        assert [folder for _, _, folder in bundles(SUITES[name])] == [SUITES[name].bundle]
        return
    names = [made for made, _ in encoders(SUITES[name])]
    assert len(set(names)) == len(names) == max(1, len(SUITES[name].data))
    assert all(made.replace("_", "").replace("-", "").isalnum() for made in names)  # a bundle may be called so


def test_one_class_encoders_have_the_recipe_s_arguments_on_their_class() -> None:
    name, recipe = list(encoders(SUITES["one_class_mnist"]))[3]
    assert (name, recipe.data) == ("cpc_mnist-label-3", "mnist[label=3]")
    assert recipe.arguments[recipe.arguments.index("--epochs") + 1] == str(SUITES["one_class_mnist"].epochs)


def test_the_figure_is_the_mean_over_classes_and_its_deviation_that_of_seeds() -> None:
    found = Recorded(
        "one_class_mnist", tuple(finding(seed, 0.9 + 0.02 * seed, str(label)) for seed in (0, 1, 2) for label in (1, 2))
    )
    *_, row = lines(found)
    assert row.startswith("| one_class_mnist | others | 0.9200 | 0.0200 | 0.9900 | 50.0% | 5.0% |")
    assert row.endswith("| 0.985, missed |")


def test_an_unknown_suite_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options("moons")) == 2
    assert "got 'moons', expected one of mnist, " in capsys.readouterr().err


def test_the_control_decides_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    for auroc, status in ((0.5, 0), (0.9, 1)):
        monkeypatch.setattr(ood, "findings", lambda _, auroc=auroc: [finding(0, auroc, against="saved_again")])
        assert main(Options("mnist")) == status


@pytest.mark.bench
@pytest.mark.slow
def test_a_suite_trains_examines_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "WORK", tmp_path / "work")
    monkeypatch.setattr(ood, "RESULTS", tmp_path / "results")
    suite = Suite("vae_digits", ("others", "saved_again"), ("digits[label=0,1,2]",), 20, (0,))
    monkeypatch.setitem(SUITES, "mnist", suite)
    assert main(Options("mnist", record=True)) == 0
    others, control, *_ = ood.records.read(Recorded, tmp_path / "results" / "mnist.json").findings
    assert (others.data, others.against, control.against) == ("digits[label=0,1,2]", "others", "saved_again")
    assert others.auroc > 0.8
    assert "| mnist | others | " in ood.table()


def test_the_page_of_results_holds_what_is_recorded() -> None:
    """Made with `python -m benchmarks.results.ood --table`."""
    page = (reproduce.ROOT / "docs" / "results.md").read_text()
    for line in ood.table().splitlines():
        assert line in page, line
