"""The evaluation report through ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from export.exporter import export_run
from export.figures import NUM_TRAVERSED, TRAVERSAL_STEPS, traversals
from export.graphs import GraphRunner
from export.onnx_evaluation import evaluate_bundle
from latentserve import bundle, records
from tests.conftest import Encode
from training.data import load_data
from training.evaluation.command import evaluate_run
from training.evaluation.comparison import ReportOptions
from training.evaluation.other_data import in_shape_of
from training.evaluation.report import EVALUATION, EvaluationReport
from training.running.run import Run


def test_onnx_and_torch_get_the_same_report(bundle_folder: Path, run_folder: Path) -> None:
    options = ReportOptions(rows=150)
    through_onnx, through_torch = (
        evaluate_bundle(bundle_folder, None, options),
        evaluate_run(run_folder, options),
    )
    assert [metric.name for metric in through_onnx.metrics] == [metric.name for metric in through_torch.metrics]
    for one, other in zip(through_onnx.metrics, through_torch.metrics, strict=True):
        assert one.value == pytest.approx(other.value, abs=0.02), one.name  # a row on a border may change sides
    assert through_onnx.measured_through == "encoder.onnx"


def test_a_bundle_holds_its_report_and_the_service_tells_the_methods_own_figures(bundle_folder: Path) -> None:
    manifest = bundle.load(bundle_folder)
    assert manifest.files[EVALUATION] == bundle.sha256_of_file(bundle_folder / EVALUATION)
    kept = records.read(EvaluationReport, bundle_folder / EVALUATION)
    assert {metric.features for metric in kept.metrics} == {"embedding", "pixels", "PCA-16", "random init"}
    assert kept.encoder_sha256 == manifest.files["encoder.onnx"]
    own = {metric.name: metric.value for metric in kept.metrics if metric.features == "embedding"}
    told = {figure.name: figure.value for figure in manifest.evaluations}
    assert own.items() <= told.items()
    assert len(manifest.evaluations) == len(told)  # no baseline under the same name
    baselines = {metric.features for metric in kept.metrics if metric.name == "linear_probe_accuracy"}
    assert baselines == {"embedding", "PCA-16", "random init"}


def test_measuring_a_bundle_leaves_it_as_it_is(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in bundle_folder.iterdir()}
    out = tmp_path / "report.json"
    arguments = [str(bundle_folder), "--data", "shapes", "--rows", "200", "--json", str(out)]
    assert main(["evaluate", *arguments]) == 0
    assert {path.name: path.read_bytes() for path in bundle_folder.iterdir()} == before
    metrics = json.loads(out.read_text())["metrics"]
    assert {metric["data"] for metric in metrics} == {"shapes test"}
    assert {"unseen_combinations_accuracy", "mig"} <= {metric["name"] for metric in metrics}
    assert "linear probe accuracy" in capsys.readouterr().out


def test_a_changed_bundle_is_not_measured(copied_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied_bundle / "encoder.onnx").write_bytes(b"other")
    assert main(["evaluate", str(copied_bundle)]) == 1
    assert "encoder.onnx: sha256: got" in capsys.readouterr().err
    assert main(["evaluate", "/nowhere/model/1"]) == 1
    assert "missing or not readable" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("graphs_are_written_once")
def test_a_full_report_has_every_baseline(run_folder: Path, tmp_path: Path) -> None:
    folder = export_run(run_folder, tmp_path, report="full")
    kept = records.read(EvaluationReport, folder / EVALUATION)
    for features in ("embedding", "pixels", "PCA-16", "PCA-64", "random init", "k-means patches"):
        names = {metric.name for metric in kept.metrics if metric.features == features}
        assert {"linear_probe_accuracy", "knn_20_accuracy", "labels_10_percent_accuracy", "clusters_nmi"} <= names
        assert ("equivariance_flip" in names) is (features != "k-means patches")
    assert bundle.load(folder).files[EVALUATION]


def test_a_traversal_moves_one_latent_at_a_time(bundle_folder: Path) -> None:
    manifest = bundle.load(bundle_folder)
    runner = GraphRunner(bundle_folder, manifest.graphs.values())
    latent = runner.run(load_data("digits").test.values)["latent"]
    moved_latents: list[np.ndarray] = []  # type: ignore[type-arg]

    class Watched(GraphRunner):
        def decode(self, latent_NL: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            moved_latents.append(latent_NL.copy())
            return super().decode(latent_NL)

    images = traversals(Watched(bundle_folder, manifest.graphs.values()), latent)
    assert len(images) == len(moved_latents) == NUM_TRAVERSED
    moving = [np.flatnonzero(np.ptp(moved, axis=0)) for moved in moved_latents]
    assert all(len(latents) == 1 for latents in moving)
    assert [int(latents[0]) for latents in moving] == np.argsort(-latent.std(axis=0))[:NUM_TRAVERSED].tolist()
    for moved, shown in zip(moved_latents, images, strict=True):
        still = np.delete(moved, np.flatnonzero(np.ptp(moved, axis=0)), axis=1)
        np.testing.assert_array_equal(still[0], np.delete(latent[0], np.flatnonzero(np.ptp(moved, axis=0))))
        assert shown.shape == (TRAVERSAL_STEPS, 8, 8, 1)


@pytest.mark.parametrize("num", [20, 43])
def test_of_ones_own_folder_every_row_is_used(
    num: int, bundle_folder: Path, tmp_path: Path, encode: Encode, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is set aside to calibrate what is calibrated already."""
    for i in range(num):
        (tmp_path / "set" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        (tmp_path / "set" / f"{i % 2}" / f"{i}.png").write_bytes(encode(image))
    spec = f"folder:{tmp_path / 'set'}"
    run = records.from_json(Run, bundle.load(bundle_folder).provenance.config)
    data = in_shape_of(run, spec)
    assert data.train.names_N is not None
    assert data.test.names_N is not None
    assert len({*data.train.names_N, *data.test.names_N}) == len(data.train) + len(data.test) == num
    assert len(data.test) == num // 5
    report = evaluate_bundle(bundle_folder, spec, ReportOptions())
    assert f"of {num} rows {num - num // 5} fit probes, {num // 5} are tested" in capsys.readouterr().err
    assert {metric.data for metric in report.metrics} == {f"{spec} test"}


def test_of_the_data_it_was_trained_on_the_runs_own_rows_are_measured(bundle_folder: Path) -> None:
    """The 512 training rows of the run fit the probe, not the 1,197 that the set has."""
    options = ReportOptions()
    asked, own = (evaluate_bundle(bundle_folder, spec, options).metrics for spec in ("digits", None))
    assert asked == own
