from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from export.exporter import export_run
from export.graphs import GraphRunner
from export.ood import Examination, Options, Row, examine, print_examination
from latentserve import bundle, records
from latentserve.conformal import p_values
from training.__main__ import Options as TrainingOptions
from training.__main__ import run_training
from training.data import load_data
from training.evaluation.separation import Separation, separation
from training.evaluation.strange import IMAGES, saved_as, strange_rows
from training.methods.vae import VaeConfig


def test_the_command_prints_writes_and_leaves_the_bundle_alone(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in bundle_folder.iterdir()}
    files = ["--json", str(tmp_path / "ood.json"), "--html", str(tmp_path / "ood.html")]
    assert main(["ood", str(bundle_folder), "--rows", "150", *files]) == 0
    assert {path.name: path.read_bytes() for path in bundle_folder.iterdir()} == before
    printed = capsys.readouterr().out
    assert "fpr at 95 strange" in printed
    assert "fpr at 95 usual" in printed
    found = records.read(Examination, tmp_path / "ood.json")
    assert list(dict.fromkeys(row.against for row in found.rows)) == [*IMAGES, "saved_again"]
    assert len(found.rows) == (len(IMAGES) + 1) * 11
    assert found.num_usual == 150
    page = (tmp_path / "ood.html").read_text()
    assert page.count("data:image/png;base64,") == 2


def test_names_that_are_no_utf8_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("folder:gr\udcfcn", "fused", Separation(0.5, 0.5, 0.5, 0.95, 0.95), 0.1, 0.1)
    print_examination(Examination("photos/1", "folder:caf\udce9", 20, 0.05, 0, (row,)))
    printed = capsys.readouterr().out
    assert r"caf\xe9" in printed
    assert r"gr\xfcn" in printed


def test_figures_are_those_of_the_graphs_scores(bundle_folder: Path) -> None:
    manifest = bundle.load(bundle_folder)
    runner = GraphRunner(bundle_folder, manifest.graphs.values())
    test = load_data("digits").test.values
    usual, flipped = (runner.run(rows)["scores"] for rows in (test, strange_rows("horizontal_flip", test)))
    found, scores = examine(Options(bundle_folder, ("horizontal_flip",)))
    calibration = bundle.load_calibration(bundle_folder, manifest)
    for column, row in enumerate(found.rows):
        assert row.figures == separation(usual[:, column], flipped[:, column])
        p = p_values(flipped[:, column], calibration[row.detector])
        assert row.share_flagged == pytest.approx((p <= 0.05).mean())
    np.testing.assert_array_equal(scores["horizontal_flip"], flipped[:, 0])


def test_the_control_is_chance_and_another_set_of_data_is_not(bundle_folder: Path) -> None:
    found, _ = examine(Options(bundle_folder, ("saved_again", "shapes")))
    area = {row.against: row.figures.auroc for row in found.rows if row.detector == found.rows[0].detector}
    assert area["saved_again"] == pytest.approx(0.5)
    assert area["shapes"] > 0.9


def test_a_set_beside_jpeg_files_becomes_jpeg_and_so_do_the_usual_rows(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if `shapes` lay in JPEG files: both sides are saved as such."""
    monkeypatch.setattr("export.ood.JPEG_SETS", ("mnist",))
    monkeypatch.setattr("export.ood.in_shape_of", lambda run, name: load_data("digits"))
    saved: list[str] = []

    def spy(images: np.ndarray, kind: str) -> np.ndarray:
        saved.append(kind)
        return saved_as(images, kind)

    monkeypatch.setattr("export.ood.saved_as", spy)
    found, _ = examine(Options(bundle_folder, ("mnist", "noise")))
    assert saved == ["JPEG", "JPEG"]  # the usual rows and those of "mnist"; the noise needs no file
    assert found.rows[0].figures.auroc == pytest.approx(0.5)


def test_a_model_of_one_class_is_asked_about_the_others(tmp_path: Path) -> None:
    config = VaeConfig(latent_dim=4, embedding_dim=32, width=4)
    run = run_training("vae", config, TrainingOptions(data="digits[label=0]", smoke=True, run=tmp_path / "run"))
    folder = export_run(run, tmp_path / "models")
    assert folder.parent.name == "digits-label-0-vae"
    found, scores = examine(Options(folder, ("others",)))
    whole = load_data("digits").test
    assert len(scores["others"]) == (whole.labels_N != 0).sum()
    assert found.rows[0].figures.auroc > 0.7
    assert not any(one.name == "linear_probe_accuracy" for one in bundle.load(folder).evaluations)


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("others", "against: got others for a model of all of digits"),
        ("nonsense", "data: got 'nonsense', expected one of"),
        ("fsdd", "image_size: got 8, expected none: fsdd has no such option"),
    ],
)
def test_a_set_that_cannot_be_is_refused(
    against: str, message: str, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ood", str(bundle_folder), "--against", against]) == 1
    assert message in capsys.readouterr().err
