from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from export.commands.ood import Options
from export.examination import Examination, Row, examine
from export.exporter import export_run
from export.graphs import GraphRunner
from export.ood_data import Sample, ood_set, whole_of
from export.ood_report import print_examination
from latentserve import bundle, records
from latentserve.conformal import p_values
from latentserve.images import decode_image
from latentserve.inputs import ImageInput
from tests.conftest import Encode
from training.__main__ import Options as TrainingOptions
from training.__main__ import run_training
from training.data import load_data
from training.data.subset import Subset
from training.evaluation.ood_sets import IMAGES, ood_rows, saved_as
from training.evaluation.separation import Separation, separation
from training.methods.vae import VaeConfig
from training.running.run import Run, open_run


def test_the_command_prints_writes_and_leaves_the_bundle_alone(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in bundle_folder.iterdir()}
    files = ["--json", str(tmp_path / "ood.json"), "--html", str(tmp_path / "ood.html")]
    assert main(["ood", str(bundle_folder), "--rows", "150", *files]) == 0
    assert {path.name: path.read_bytes() for path in bundle_folder.iterdir()} == before
    printed = capsys.readouterr().out
    assert "FPR at 95 OOD" in printed
    assert "FPR at 95 ID" in printed
    found = records.read(Examination, tmp_path / "ood.json")
    assert list(dict.fromkeys(row.against for row in found.rows)) == [*IMAGES, "saved_again"]
    assert len(found.rows) == (len(IMAGES) + 1) * len(bundle.load(bundle_folder).detectors)
    assert found.num_id == 150
    page = (tmp_path / "ood.html").read_text()
    assert page.count("data:image/png;base64,") == 2


def test_names_that_are_no_utf8_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("folder:gr\udcfcn", "fused", Separation(0.5, 0.5, 0.5, 0.95, 0.95), 0.1, 0.1, 20, (0.4, 0.6), (0.0, 0.2))
    print_examination(Examination("photos/1", "folder:caf\udce9", 20, 0.05, 0, (row,)))
    printed = capsys.readouterr().out
    assert r"caf\xe9" in printed
    assert r"gr\xfcn" in printed


def test_figures_are_those_of_the_graphs_scores(bundle_folder: Path) -> None:
    manifest = bundle.load(bundle_folder)
    runner = GraphRunner(bundle_folder, manifest.graphs.values())
    test = load_data("digits").test.values
    id_scores, flipped = (runner.run(rows)["scores"] for rows in (test, ood_rows("horizontal_flip", test)))
    found, scores = examine(bundle_folder, ("horizontal_flip",))
    calibration = bundle.load_calibration(bundle_folder, manifest)
    for column, row in enumerate(found.rows):
        assert row.figures == separation(id_scores[:, column], flipped[:, column])
        p = p_values(flipped[:, column], calibration[row.detector])
        assert row.share_flagged == pytest.approx((p <= 0.05).mean())
    np.testing.assert_array_equal(scores["horizontal_flip"], flipped[:, 0])


def test_the_control_is_chance_and_another_set_of_data_is_not(bundle_folder: Path) -> None:
    found, _ = examine(bundle_folder, ("saved_again", "shapes"))
    area = {row.against: row.figures.auroc for row in found.rows if row.detector == found.rows[0].detector}
    assert area["saved_again"] == pytest.approx(0.5)
    assert area["shapes"] > 0.9


def test_a_set_beside_jpeg_files_becomes_jpeg_and_so_do_the_test_rows(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if `shapes` lay in JPEG files: both sides are saved as such."""
    monkeypatch.setattr("export.ood_data.JPEG_SETS", ("mnist",))
    monkeypatch.setattr("export.ood_data.in_shape_of", lambda run, name: load_data("digits"))
    saved: list[str] = []

    def spy(images: np.ndarray, kind: str) -> np.ndarray:
        saved.append(kind)
        return saved_as(images, kind)

    monkeypatch.setattr("export.ood_data.saved_as", spy)
    found, _ = examine(bundle_folder, ("mnist", "noise"))
    assert saved == ["JPEG", "JPEG"]  # the test rows and those of "mnist"; the noise needs no file
    assert found.rows[0].figures.auroc == pytest.approx(0.5)


def test_a_model_of_one_class_is_evaluated_on_the_others(tmp_path: Path) -> None:
    config = VaeConfig(latent_dim=4, embedding_dim=32, width=4)
    run = run_training("vae", config, TrainingOptions(data="digits[label=0]", smoke=True, run=tmp_path / "run"))
    folder = export_run(run, tmp_path / "models")
    assert folder.parent.name == "digits-label-0-vae"
    found, scores = examine(folder, ("others",))
    whole = load_data("digits").test
    assert len(scores["others"]) == (whole.labels_N != 0).sum()
    assert found.rows[0].figures.auroc > 0.7
    assert not any(one.name == "linear_probe_accuracy" for one in bundle.load(folder).evaluations)


def write_images(folder: Path, num: int, encode: Encode) -> Path:
    folder.mkdir()
    for i in range(num):
        image = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        (folder / f"{i}.png").write_bytes(encode(image))
    return folder


@pytest.mark.parametrize("num", [1, 23])
def test_every_row_of_ones_own_folder_is_evaluated(
    num: int, bundle_folder: Path, tmp_path: Path, encode: Encode, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"folder:{write_images(tmp_path / 'others', num, encode)}"
    assert main(["ood", str(bundle_folder), "--against", spec, "--json", str(tmp_path / "ood.json")]) == 0
    found = records.read(Examination, tmp_path / "ood.json")
    deciding = found.rows[0]
    assert {row.num_rows for row in found.rows} == {num}
    manifest = bundle.load(bundle_folder)
    rows = np.stack(
        [decode_image((tmp_path / "others" / f"{i}.png").read_bytes(), ImageInput(8, 8, 1), 10**6) for i in range(num)]
    )
    scores = GraphRunner(bundle_folder, manifest.graphs.values()).run(rows)["scores"][:, 0]
    p = p_values(scores, bundle.load_calibration(bundle_folder, manifest)[deciding.detector])
    assert deciding.share_flagged == pytest.approx((p <= 0.05).mean())
    low, high = deciding.flagged_interval
    assert low <= deciding.share_flagged <= high
    assert (low == pytest.approx(0.025)) is (num == 1)  # 1 of 1 flagged: Clopper and Pearson
    low, high = deciding.auroc_interval
    assert low < deciding.figures.auroc <= high
    assert (high - low > 0.3) is (num == 1)
    assert f"{low:.3f} to {high:.3f}" in capsys.readouterr().out


def test_fewer_rows_are_taken_when_they_are_asked_for_and_shards_are_read_too(
    bundle_folder: Path, tmp_path: Path, encode: Encode
) -> None:
    folder = write_images(tmp_path / "others", 9, encode)
    shard = tmp_path / "others.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(folder, arcname="set")
    _, scores = examine(bundle_folder, (f"folder:{folder}", f"wds:{shard}"))
    of_folder, of_shard = (scores[name] for name in (f"folder:{folder}", f"wds:{shard}"))
    np.testing.assert_array_equal(np.sort(of_folder), np.sort(of_shard))
    assert len(of_folder) == 9
    _, scores = examine(bundle_folder, (f"folder:{folder}",), 4)
    assert len(scores[f"folder:{folder}"]) == 4
    with pytest.raises(ValueError, match="rows: got 0, expected 1 or more"):
        Options(bundle_folder, rows=0)


def test_the_others_of_a_part_are_split_as_the_part_was(run_folder: Path, tmp_path: Path, encode: Encode) -> None:
    folder = write_images(tmp_path / "set", 24, encode)
    run, _ = open_run(run_folder)
    grouped = replace(run, group_by=r"name:(\d+)\d.png")  # 0 to 9 by themselves, then tens and twenties
    whole = whole_of(Subset(f"folder:{folder}", "label", (0,), True), grouped)
    assert whole.train.units_N is not None
    assert len(np.unique(whole.train.units_N)) == 8  # of 12 three calibrate and one is tested on


def test_of_the_folder_it_was_trained_on_only_test_rows_are_evaluated(run_folder: Path) -> None:
    run, _ = open_run(run_folder)
    data = run.load_data()
    own = replace(run, data="folder:/anywhere")
    assert ood_set("folder:/anywhere", own, data.test.values, Sample()) is data.test.values


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("folder:/nowhere", "folder: got '/nowhere', expected a folder"),
        ("others", "against: got others for a model of all of digits"),
        ("nonsense", "data: got 'nonsense', expected one of"),
        ("fsdd[group!=2]", "against: got 'fsdd[group!=2]', which are sounds, expected images for a model of digits"),
        ("audio:/anywhere", "against: got 'audio:/anywhere', which are sounds, expected images"),
    ],
)
def test_a_set_that_cannot_be_is_rejected(
    against: str, message: str, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ood", str(bundle_folder), "--against", against]) == 1
    assert message in capsys.readouterr().err


def test_sounds_are_rejected_before_any_data_is_loaded(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "load_data", lambda self: pytest.fail("the data were loaded"))
    assert main(["ood", str(bundle_folder), "--against", "fsdd"]) == 1
