"""The evaluation report: from a run, from any encoder, with its baselines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentserve import records
from training.__main__ import main
from training.data import Data, DataError, Rows, load_data, shapes
from training.evaluation.baselines import pixels
from training.evaluation.comparison import ReportOptions, baseline_report, baselines_of, make_report
from training.evaluation.corruptions import CORRUPTIONS
from training.evaluation.other_data import in_shape_of
from training.evaluation.report import (
    EVALUATION,
    FULL,
    QUICK,
    EvaluationReport,
    Metric,
    evaluation_report,
    remembering,
    some_rows,
)
from training.evaluation.report_plots import plot_equivariance, plot_labels_curve, plot_robustness
from training.evaluation.table import print_report, report_table
from training.evaluation.torch_encoders import torch_encoder, untrained, weights_sha256
from training.evaluation.transforms import GENERATORS
from training.running.run import load_model, open_run

Array = NDArray[Any]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


def by_name(metrics: list[Metric], on: str = "digits test") -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics if metric.data == on}


def labels_of(rows: Rows) -> NDArray[np.int64]:
    assert rows.labels_N is not None
    return rows.labels_N


def test_a_perfect_encoder_gets_the_best_figures_and_a_constant_one_the_worst(data: Data) -> None:
    rows = np.concatenate([data.train.values, data.test.values])
    labels = np.concatenate([labels_of(data.train), labels_of(data.test)])
    known = {image.tobytes(): label for image, label in zip(rows, labels, strict=True)}

    def knows_the_class(rows: Array) -> NDArray[np.float32]:
        return np.eye(11, dtype=np.float32)[[known.get(image.tobytes(), 10) for image in rows]]

    def constant(rows: Array) -> NDArray[np.float32]:
        return np.full((len(rows), 4), 0.1, np.float32)

    config = replace(QUICK, moved_rows=200, corrupted_rows=100)
    perfect, flat = (by_name(evaluation_report(encode, data, config)) for encode in (knows_the_class, constant))
    for name in ("linear_probe_accuracy", "knn_20_accuracy", "labels_1_per_class_accuracy", "clusters_nmi"):
        assert perfect[name] == pytest.approx(1)
        assert flat[name] < 0.2, name
    assert perfect["accuracy_under_noise"] < 0.3  # it knows the clean images by heart
    for name, value in flat.items():
        assert np.isfinite(value)
        if "variance" in name:
            assert value == 0, name


def test_everything_is_in_the_report_and_the_parts_choose(data: Data) -> None:
    small = replace(data, train=some_rows(data.train, 300), test=some_rows(data.test, 100))
    metrics = by_name(evaluation_report(pixels, small, replace(FULL, num_draws=2)))
    expected = {"linear_probe_accuracy", "knn_20_accuracy", "clusters_nmi", "clusters_ari", "accuracy_under_corruption"}
    expected |= {f"labels_{part}_accuracy" for part in ("1_per_class", "10_per_class")}  # no class has 100
    expected |= {"labels_1_percent_accuracy", "labels_10_percent_accuracy"}
    expected |= {f"accuracy_under_{name}" for name in CORRUPTIONS}
    expected |= {f"{kind}variance_{name}" for kind in ("equi", "in") for name in GENERATORS}
    assert metrics.keys() == expected
    assert metrics["equivariance_shift"] > 0.9  # pixels move by a linear map
    assert metrics["invariance_shift"] < metrics["equivariance_shift"]
    under = [metrics[f"accuracy_under_{name}"] for name in CORRUPTIONS]
    assert metrics["accuracy_under_corruption"] == pytest.approx(np.mean(under))
    only = by_name(evaluation_report(pixels, small, replace(FULL, num_draws=2, parts=("clusters",))))
    assert only == {name: metrics[name] for name in ("clusters_nmi", "clusters_ari")}


def test_options_do_what_they_say(data: Data) -> None:
    seen: list[int] = []

    def counting(rows: Array) -> NDArray[np.float32]:
        seen.append(len(rows))
        return pixels(rows)

    config = replace(QUICK, parts=("robustness", "equivariance"), moved_rows=80, corrupted_rows=60)
    evaluation_report(counting, data, config)
    train, test, *others = seen
    assert (train, test) == (len(data.train), len(data.test))
    assert others == [60] * len(CORRUPTIONS) + [80, 20] * (1 + len(GENERATORS))
    labels = replace(QUICK, parts=("labels",), per_class=(2,), shares=(0.05,), num_draws=4)
    first, second = evaluation_report(pixels, data, labels)
    assert (first.name, second.name) == ("labels_2_per_class_accuracy", "labels_5_percent_accuracy")
    assert first.standard_deviation is not None
    (single,) = evaluation_report(pixels, data, replace(labels, shares=(), num_draws=1))
    assert single.standard_deviation is None


def test_without_labels_or_with_one_class_what_needs_none_is_left(data: Data) -> None:
    unlabelled = replace(data, train=replace(data.train, labels_N=None))
    one_class = replace(data, train=replace(data.train, labels_N=np.zeros(len(data.train), np.int64)))
    for some in (unlabelled, one_class):
        names = by_name(evaluation_report(pixels, some, replace(QUICK, moved_rows=50)))
        assert names
        assert all("variance" in name for name in names)


def test_a_class_with_one_image_and_one_that_was_never_trained_on_are_borne(data: Data) -> None:
    labels = labels_of(data.train)
    keep = np.concatenate([np.flatnonzero(labels < 8), np.flatnonzero(labels == 8)[:1]])
    rare = replace(data, train=data.train.take(keep))
    metrics = by_name(evaluation_report(pixels, rare, replace(QUICK, parts=("probes", "labels"))))
    assert 0.5 < metrics["linear_probe_accuracy"] < 0.85


def test_unseen_combinations_are_measured_where_factors_are_known() -> None:
    indices = np.random.default_rng(0).permutation(shapes.NUM_SHAPES)[:1200]
    factors, images = shapes.factors(indices), shapes.render(indices, 16)
    rows = Rows(images, factors[:, 0], factors_NF=factors)
    small = Data("shapes", rows.take(slice(0, 900)), rows, rows.take(slice(900, 1200)))
    factors_of = {image.tobytes(): values for image, values in zip(images, factors, strict=True)}

    def apart(rows: Array) -> NDArray[np.float32]:
        factors = np.stack([factors_of[image.tobytes()] for image in rows])
        return np.concatenate([np.eye(3)[factors[:, 0]], factors[:, 1:]], axis=1).astype(np.float32)

    (metric,) = evaluation_report(apart, small, replace(FULL, parts=("composition",)))
    assert (metric.name, metric.value) == ("unseen_combinations_accuracy", pytest.approx(1))
    (metric,) = evaluation_report(pixels, small, replace(FULL, parts=("composition",)))
    assert metric.value < 0.7


def test_latents_are_held_against_the_factors_where_both_are_known(data: Data) -> None:
    factors = np.stack(np.meshgrid(np.arange(5), np.arange(4), np.arange(30)), axis=-1).reshape(-1, 3)[:, :2]
    rows = Rows(np.zeros((len(factors), 2, 2, 1), np.uint8), factors[:, 0] % 2, factors_NF=factors)
    known = Data("known", rows, rows, rows)
    config = replace(FULL, parts=("disentanglement",))
    metrics = by_name(
        evaluation_report(pixels, known, config, latent=lambda _: factors.astype(np.float32)), "known test"
    )
    assert metrics["mig"] > 0.95
    assert metrics["dci_disentanglement"] > 0.95
    assert evaluation_report(pixels, known, config) == []
    assert evaluation_report(pixels, data, config, latent=pixels) == []


def test_what_is_known_is_not_encoded_again() -> None:
    rows, other = np.zeros((3, 2), np.uint8), np.zeros((3, 2), np.uint8)
    known = np.ones((3, 1), np.float32)
    encode = remembering(lambda array: array.astype(np.float32), (rows, known))
    assert encode(rows) is known
    assert encode(other).shape == (3, 2)


def test_the_encoder_is_frozen_and_in_eval_mode(run_folder: Path, data: Data) -> None:
    run, _ = open_run(run_folder)
    model = load_model(run_folder, run).train()  # as if somebody had forgotten
    before = weights_sha256(model)
    encode = torch_encoder(model)
    together, alone = encode(data.test.values), encode(data.test.values[:1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)  # no batch statistics
    make_report(encode, run, data, ReportOptions(rows=200))
    assert weights_sha256(model) == before
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model.train().encode(torch.rand(4, 1, 8, 8))  # type: ignore[operator]
    assert weights_sha256(model) != before  # the hash would have seen running statistics move


def test_parts_alone_are_measured_when_they_are_asked_for(run_folder: Path, data: Data) -> None:
    run, _ = open_run(run_folder)
    encode, parts = torch_encoder(load_model(run_folder, run)), ("probes",)
    probes = make_report(encode, run, data, ReportOptions(rows=100, baselines=True, patches=False, parts=parts))
    assert {metric.name for metric in probes} == {"linear_probe_accuracy", "knn_20_accuracy"}
    assert {metric.features for metric in probes} >= {"embedding", "pixels"}
    with pytest.raises(ValueError, match=r"parts: got none, expected some of probes, "):
        ReportOptions(parts=())


def test_a_run_that_measuring_changes_is_rejected(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.evaluation import torch_encoders

    def careless(model: torch.nn.Module, *tensor: Any) -> Any:
        encode = torch_encoder(model, *tensor)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return encode

    monkeypatch.setattr(torch_encoders, "torch_encoder", careless)
    assert main(["evaluate", str(run_folder), "--rows", "50"]) == 1
    assert "changed the encoder's weights" in capsys.readouterr().err


def test_the_untrained_network_is_the_one_that_training_began_with(run_folder: Path, data: Data) -> None:
    run, _ = open_run(run_folder)
    rows = data.test.values[:20]
    first = torch_encoder(untrained(run))(rows)
    np.testing.assert_array_equal(first, torch_encoder(untrained(run))(rows))
    assert np.abs(first - torch_encoder(load_model(run_folder, run))(rows)).max() > 0.01


def test_the_command_writes_the_report_with_baselines_and_transfer(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(run_folder), "--baselines", "--no-patches", "--transfer", "shapes", "--rows", "120"]
    assert main(arguments) == 0
    report = records.read(EvaluationReport, run_folder / EVALUATION)
    (run_folder / EVALUATION).unlink()
    assert {metric.features for metric in report.metrics} == {"embedding", "pixels", "PCA-16", "PCA-64", "random init"}
    assert report.encoder_sha256 == weights_sha256(load_model(run_folder, open_run(run_folder)[0]))
    transferred = {metric.features: metric.name for metric in report.metrics if metric.data == "shapes test"}
    assert transferred.keys() == {metric.features for metric in report.metrics}
    out = capsys.readouterr().out
    for said in ("linear probe accuracy", "baseline: PCA-16", "embedding", str(run_folder / EVALUATION)):
        assert said in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere"], "expected the folder of a training run"),
        (["RUN", "--rows", "0"], "rows: got 0, expected 1 or more"),
        (["RUN", "--transfer", "cifar11"], "got 'cifar11'"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], said: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run_folder) if argument == "RUN" else argument for argument in arguments]
    assert main(["evaluate", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_other_data_comes_in_the_shape_that_the_encoder_takes(run_folder: Path) -> None:
    run, _ = open_run(run_folder)
    assert in_shape_of(run, "shapes").train.values.shape[1:] == (8, 8, 1)
    colour = replace(run, shape=replace(run.shape, channels=3))  # type: ignore[arg-type]
    values = in_shape_of(colour, "digits").test.values
    assert values.shape == (300, 8, 8, 3)
    assert (values[..., 0] == values[..., 2]).all()
    with pytest.raises(DataError, match="got 'x'"):
        in_shape_of(run, "x")


def test_baselines_of_few_dimensions_are_evaluated_on_factors(run_folder: Path) -> None:
    run, _ = open_run(run_folder)
    shapes = in_shape_of(run, "shapes")
    few = replace(shapes, train=some_rows(shapes.train, 200), test=some_rows(shapes.test, 200))
    config = replace(QUICK, parts=("disentanglement",))
    evaluated = {
        name for name in baselines_of(few) if "mig" in by_name(baseline_report(name, run, few, config), "shapes test")
    }
    assert evaluated == {"PCA-16", "random init"}


def test_sound_has_the_baseline_that_is_not_about_images(run_folder: Path) -> None:
    from training.data import AudioShape

    rows = Rows(np.zeros((20, 80), np.int16), np.arange(20) % 2)
    sound = Data("clips", rows, rows, rows, sample_rate_hz=8000)
    assert baselines_of(sound) == ("random init",)
    assert baselines_of(sound, trained_here=False) == ()
    assert len(baselines_of(load_data("digits"), patches=False)) == len(baselines_of(load_data("digits"))) - 1
    assert "random init" not in baselines_of(load_data("digits"), trained_here=False)
    names = by_name(evaluation_report(lambda clips: clips.astype(np.float32), sound, QUICK), "clips test")
    assert "linear_probe_accuracy" in names
    assert not any("variance" in name or "under" in name for name in names)
    run = replace(open_run(run_folder)[0], shape=AudioShape(8000, 80))
    with pytest.raises(DataError, match="transfer: got an encoder of audio"):
        in_shape_of(run, "digits")


METRICS = [
    Metric("linear_probe_accuracy", 0.9, "digits test"),
    Metric("labels_10_per_class_accuracy", 0.7, "digits test", 0.02),
    Metric("equivariance_shift", 0.5, "digits test"),
    Metric("invariance_shift", -7.0, "digits test"),
    Metric("linear_probe_accuracy", 0.6, "digits test", features="pixels"),
]


def test_the_table_has_the_baselines_beside_the_method() -> None:
    headings, rows = report_table([METRICS[-1], *METRICS])
    assert headings == ("", "on", "embedding", "baseline: pixels")
    assert rows[0] == ("linear probe accuracy", "digits test", "90.00", "60.00")
    assert rows[1][2:] == ("70.00 ± 2.00", "")
    assert rows[3][2:] == ("-7.000", "")


def test_pictures_are_drawn_of_what_there_is_and_of_nothing_else() -> None:
    from matplotlib import pyplot as plt

    curve = plot_labels_curve(METRICS, "digits test")
    assert curve is not None
    assert [line.get_label() for line in curve.axes[0].containers] == ["pixels", "embedding"]
    bars = plot_equivariance(
        [Metric(f"{kind}variance_{name}", -7.0, "d") for kind in ("equi", "in") for name in GENERATORS], "d"
    )
    assert bars is not None
    assert bars.axes[0].get_xlim() == (-1.35, 1.12)  # no bar pushes the others out of sight
    assert plot_robustness(METRICS, "digits test") is None
    assert plot_equivariance(METRICS, "mnist test") is None
    plt.close("all")


def test_what_has_no_figures_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([], "runs/whales")
    assert capsys.readouterr().out == (
        "runs/whales: no figures; probes, clusters and groups need labels, and these data have none\n"
    )


def test_names_that_are_no_utf8_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([Metric("knn_accuracy", 0.5, "folder:caf\udce9 test")], "runs/gr\udcfcn")
    printed = capsys.readouterr().out
    assert r"caf\xe9" in printed
    assert r"runs/gr\xfcn" in printed
