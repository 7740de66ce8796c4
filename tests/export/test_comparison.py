"""`latentserve compare A B`: figures against direct computations, what is told of bundles and data that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.__main__ import main
from export.commands.compare import Options
from export.comparison.alignment import debiased_cka, linear_cka, neighbours_kept
from export.comparison.cost import NUM_ROUNDS, _timed
from export.comparison.examination import Choices, Comparison, compare
from export.comparison.figures import cheaper, compared
from export.comparison.intervals import auroc_difference, paired_bootstrap
from export.comparison.page import page
from export.comparison.rows import load_pair
from export.comparison.sides import open_sides
from export.comparison.summary import summary
from export.graphs import GraphRunner
from export.onnx_evaluation import evaluate_bundle
from latentserve import bundle, records
from latentserve.conformal import sha256_of_scores
from latentserve.errors import BundleError
from latentserve.inputs import ImageInput, TensorSpec
from tests.conftest import Encode
from training.data import ImageShape, load_data
from training.evaluation.comparison import ReportOptions
from training.evaluation.separation import auroc
from training.running.run import Run


@pytest.fixture(scope="module")
def other_folder(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle by hand: a random projection of digits of 12 pixels, whose score is its length.

    It is of a run that was split by another seed: some of its training rows are test rows of the VAE's.
    """
    folder = tmp_path_factory.mktemp("other") / "projection" / "1"
    folder.mkdir(parents=True)
    data = load_data("digits", 12, 3)
    data = replace(data, train=data.train.take(slice(0, 512)))
    rng = np.random.default_rng(0)
    w_PD = rng.normal(size=(144, 16)).astype(np.float32) / 3000
    graphs = {"encoder": _encoder(folder, w_PD), "scorer": _scorer(folder)}
    flat_NP = data.calibration.values.reshape(len(data.calibration), -1).astype(np.float32)
    scores = np.sort(GraphRunner(folder, graphs.values()).run(data.calibration.values)["scores"][:, 0])
    np.testing.assert_allclose(scores, np.sort(np.abs(flat_NP @ w_PD).sum(axis=1)), rtol=1e-4)
    np.savez(folder / bundle.CALIBRATION, length=scores)
    np.savez(folder / bundle.GOLDEN, input=data.test.values[:2])
    manifest = bundle.load(bundle_folder)
    run = records.from_json(Run, manifest.provenance.config)
    shape, loop = ImageShape(12, 1), replace(run.loop, seed=3)
    run = replace(run, shape=shape, loop=loop, num_train_rows=len(data.train), data_sha256=data.fingerprint)
    made = replace(
        manifest,
        name="projection",
        input=ImageInput(12, 12, 1),
        graphs=graphs,
        embedding_space="es1-other",
        provenance=replace(manifest.provenance, method="projection", config=records.to_json(run)),
        files={path.name: bundle.sha256_of_file(path) for path in folder.iterdir()},
        detectors=(bundle.Detector("length", "sum of magnitudes", len(scores), sha256_of_scores(scores)),),
        parity=(),
        evaluations=(),
        map_detector="",
    )
    records.write(made, folder / bundle.MANIFEST)
    return folder


def _encoder(folder: Path, w_PD: NDArray[np.float32]) -> bundle.Graph:
    nodes = [
        helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["embedding"]),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.UINT8, ["rows", 12, 12, 1])
    made = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", 16])
    weights = [numpy_helper.from_array(w_PD, "w")]
    graph = helper.make_graph(nodes, "encoder", [given], [made], weights)
    return _saved(folder / "encoder.onnx", graph, ImageInput(12, 12, 1).spec, TensorSpec("embedding", "float32", (16,)))


def _scorer(folder: Path) -> bundle.Graph:
    nodes = [helper.make_node("ReduceL1", ["embedding"], ["scores"], axes=[1], keepdims=1)]
    given = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", 16])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 1])
    graph = helper.make_graph(nodes, "scorer", [given], [made])
    specs = TensorSpec("embedding", "float32", (16,)), TensorSpec("scores", "float32", (1,))
    return _saved(folder / "scorer.onnx", graph, *specs)


def _saved(path: Path, graph: Any, given: TensorSpec, made: TensorSpec) -> bundle.Graph:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return bundle.Graph(path.name, (given,), (made,))


@pytest.fixture(scope="module")
def found(bundle_folder: Path, other_folder: Path) -> Comparison:
    return compare(bundle_folder, other_folder, Choices("digits", ("horizontal_flip", "saved_again")))


def related(num: int = 40, noise: float = 0.5) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(num, 5)) * [3, 1, 1, 0.5, 0.1] + 7
    return x_ND, x_ND @ rng.normal(size=(5, 8)) + noise * rng.normal(size=(num, 8))


def test_linear_cka_is_that_of_centred_gram_matrices() -> None:
    x_ND, y_NE = related()
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ features @ features.T @ centre for features in (x_ND, y_NE))
    assert linear_cka(x_ND, y_NE) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    assert linear_cka(x_ND, 3 * x_ND @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]) == pytest.approx(
        1
    )
    assert np.isnan(linear_cka(x_ND, np.ones((40, 3))))
    with pytest.raises(ValueError, match="y_NE: got 39 rows, expected 40"):
        linear_cka(x_ND, y_NE[1:])


def test_debiased_cka_is_that_of_u_centred_gram_matrices() -> None:
    """Szekely and Rizzo's U-centring, which Song's estimator equals: every row of it sums to none."""

    def u_centred(features: NDArray[Any]) -> NDArray[Any]:
        gram = features @ features.T
        np.fill_diagonal(gram, 0)
        num = len(gram)
        sums = gram.sum(axis=0)
        out = gram - (sums[:, None] + sums) / (num - 2) + sums.sum() / ((num - 1) * (num - 2))
        np.fill_diagonal(out, 0)
        return out

    x_ND, y_NE = related()
    k, m = u_centred(x_ND), u_centred(y_NE)
    assert debiased_cka(x_ND, y_NE) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    rng = np.random.default_rng(2)
    far = [(rng.normal(size=(30, 100)), rng.normal(size=(30, 100))) for _ in range(20)]
    assert np.mean([linear_cka(*pair) for pair in far]) > 0.5  # few rows of many features
    assert abs(np.mean([debiased_cka(*pair) for pair in far])) < 0.05
    assert np.isnan(debiased_cka(x_ND[:3], y_NE[:3]))


def test_neighbours_kept_are_those_of_a_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.comparison.alignment.AT_ONCE", 16)  # several blocks
    x_ND, y_NE = related(noise=3.0)

    def nearest(features: NDArray[Any], row: int) -> set[int]:
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        order = np.argsort(-(unit @ unit[row]))
        return set([one for one in order.tolist() if one != row][:4])

    expected = [len(nearest(x_ND, row) & nearest(y_NE, row)) / 4 for row in range(40)]
    np.testing.assert_allclose(neighbours_kept(x_ND, y_NE, 4), expected)
    assert 0 < np.mean(expected) < 1
    assert (neighbours_kept(x_ND, 2 * x_ND, 4) == 1).all()


def test_intervals_of_differences_hold_what_they_should() -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-1.0, 0.0, 1.0], 400, p=[0.1, 0.6, 0.3])
    low, high = paired_bootstrap(differences)
    reach = 1.96 * differences.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((differences.mean() - reach, differences.mean() + reach), abs=0.01)
    draws = np.stack([differences - 0.2, differences + 0.2])
    assert np.ptp(paired_bootstrap(draws)) > 1.3 * (high - low)  # the draws of labels differ, too
    assert paired_bootstrap(np.zeros(20)) == (0, 0)
    assert compared("x", 1, 0.9, (0.02, 0.2)).better == "A"
    assert compared("x", 0.9, 1, (-0.2, -0.02)).better == "B"
    assert compared("x", 0.9, 1, (-0.2, 0.0)).better == "tie"
    assert cheaper("x", 1, 2, (0.4, 0.6)).better == "A"
    assert cheaper("x", 2, 1, (1.9, 2.1)).better == "B"
    assert cheaper("x", 2, 1, (0.9, 2.1)).better == "tie"


def test_the_interval_of_an_auroc_difference_is_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(0)
    id_2N, ood_2M = rng.normal(size=(2, 150)), rng.normal(1, 1, (2, 90))
    id_2N[1] += id_2N[0]  # scores of one row hang together
    ood_2M[1] += ood_2M[0]
    low, high = auroc_difference(id_2N, ood_2M)
    above = [(ood_M > id_N[:, None]).astype(float) for id_N, ood_M in zip(id_2N, ood_2M, strict=True)]
    difference_NM = above[0] - above[1]
    drawn = [
        difference_NM[rng.integers(0, 150, 150)][:, rng.integers(0, 90, 90)].mean()  # an AUROC is a share of pairs
        for _ in range(2000)
    ]
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert (low + high) / 2 == pytest.approx(auroc(id_2N[0], ood_2M[0]) - auroc(id_2N[1], ood_2M[1]))
    assert auroc_difference(np.zeros((2, 5)), np.ones((2, 5))) == (0, 0)


def test_times_are_those_of_runs_that_take_turns() -> None:
    order: list[str] = []
    now = [0.0]

    def run(name: str, seconds: float) -> Callable[[], object]:
        def one() -> None:
            order.append(name)
            now[0] += seconds

        return one

    figure = _timed("ms", [run("a", 0.004), run("b", 0.008)], 2, clock=lambda: now[0])
    assert (figure.a, figure.b) == pytest.approx((2, 4))
    assert figure.interval == pytest.approx((0.5, 0.5))
    assert figure.better == "A"
    assert order == ["a", "b"] * (2 + 3 * NUM_ROUNDS)


def test_a_comparison_has_the_figures_of_each_bundle(found: Comparison, bundle_folder: Path) -> None:
    alone = evaluate_bundle(bundle_folder, None, ReportOptions())
    figures = {metric.name: metric.value for metric in alone.metrics}
    assert found.num_train == 512
    assert 200 < found.num_test < 300  # but for those that B was trained on
    by_name = {figure.name: figure for figure in found.classes}
    assert by_name["linear probe accuracy"].a == pytest.approx(figures["linear_probe_accuracy"], abs=0.03)
    assert by_name["kNN-20 accuracy"].a == pytest.approx(figures["knn_20_accuracy"], abs=0.03)
    assert len(by_name) == 3
    flip, control = found.sets
    assert flip.auroc.a is not None
    assert flip.auroc.a > 0.6
    assert (control.auroc.a, control.auroc.b, control.auroc.better) == (pytest.approx(0.5), pytest.approx(0.5), "")
    assert [one.side for one in found.false_alarms] == ["A", "B"]
    assert found.a.input == "8 x 8 grey"
    assert found.b.input == "12 x 12 grey"
    assert 0 < found.alignment.chance < found.alignment.neighbours_kept < 1
    assert len(summary(found)) == 6


def test_rows_that_a_bundle_was_trained_on_are_left_out_and_told(
    found: Comparison, bundle_folder: Path, other_folder: Path
) -> None:
    a, b = open_sides(bundle_folder, other_folder)
    trained = {row.tobytes() for row in b.origin.load_data().train.values}
    whole = load_data("digits", 12, 0).test
    num = sum(row.tobytes() in trained for row in whole.values)
    assert num > 0
    assert f"B was trained on {num} of 300 test rows" in found.notes
    pair = load_pair(a, b, "digits", 10_000, 0)
    assert len(pair.a.test) == len(pair.b.test) == found.num_test == 300 - num
    assert not trained & {row.tobytes() for row in pair.b.test.values}
    np.testing.assert_array_equal(pair.a.test.labels_N, pair.b.test.labels_N)


def test_the_command_prints_and_writes(
    bundle_folder: Path, other_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in bundle_folder.iterdir()}
    files = ["--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    named = ["--data", "digits", "--rows", "60", "--against", "noise", "--alpha", "0.1"]
    assert main(["compare", str(bundle_folder), str(other_folder), *named, *files]) == 0
    assert {path.name: path.read_bytes() for path in bundle_folder.iterdir()} == before
    printed = capsys.readouterr().out
    read = records.read(Comparison, tmp_path / "c.json")
    assert (read.num_train, read.num_test, read.alpha) == (60, 60, 0.1)
    assert "Of 512 training rows 60 were drawn (seed 0)" in read.notes
    assert [one.num_rows for one in read.sets] == [60]
    for told in ("neighbours kept", "Flagged at alpha 0.1", "A is digits-vae/1, B is projection/1", "by AUROC"):
        assert told in printed
    html = (tmp_path / "c.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "Out-of-distribution sets" in html
    assert page(read) == html


def write_images(folder: Path, num: int, encode: Encode, classes: int = 1) -> Path:
    """The first half of them are of one class; images that differ in a corner of 32 pixels, and are one at 8."""
    for i in range(num):
        image = np.full((32, 32, 3), 40 * (i % 3), np.uint8)
        image[: 4 + i % 5, :16] = np.random.default_rng(i // 2).integers(0, 256, 3)
        image[31, 31] = 255 * (i % 2)
        place = folder / (f"{i % classes}" if classes > 1 else ".")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(encode(image))
    return folder


def test_rows_of_ones_own_folder_are_the_same_at_either_size(
    bundle_folder: Path, other_folder: Path, tmp_path: Path, encode: Encode
) -> None:
    """Twins at one size are none at another: a split is drawn once, and the files of it are read at both."""
    a, b = open_sides(bundle_folder, other_folder)
    pair = load_pair(a, b, f"folder:{write_images(tmp_path / 'set', 150, encode, classes=2)}", 10_000, 0)
    for split in ("train", "test"):
        one, same = getattr(pair.a, split), getattr(pair.b, split)
        assert one.names_N.tolist() == same.names_N.tolist()
        assert one.labels_N.tolist() == same.labels_N.tolist()
        assert (one.values.shape[1], same.values.shape[1]) == (8, 12)
    assert not {*pair.a.train.names_N} & {*pair.a.test.names_N}
    assert sum("nothing is promised" in note for note in pair.notes) == 2


def test_without_labels_probes_are_left_out_and_every_own_row_is_compared_against(
    bundle_folder: Path, other_folder: Path, tmp_path: Path, encode: Encode
) -> None:
    spec = f"folder:{write_images(tmp_path / 'set', 240, encode)}"
    own = f"folder:{write_images(tmp_path / 'others', 7, encode)}"
    found = compare(bundle_folder, other_folder, Choices(spec, (own,)))
    assert found.classes == ()
    assert "The data have no labels, so that probes are left out" in found.notes
    assert [one.num_rows for one in found.sets] == [7]
    assert all(one.band == () for one in found.false_alarms)  # both were calibrated on digits
    assert "Classes" not in page(found)


def test_a_bundle_equals_itself(bundle_folder: Path) -> None:
    found = compare(bundle_folder, bundle_folder, Choices(against=("noise",), rows=100))
    assert any("one encoder, equal bit for bit" in note for note in found.notes)
    assert {figure.better for figure in found.classes} == {"tie"}
    assert found.alignment.cka == pytest.approx(1)
    assert found.alignment.neighbours_kept == 1
    assert [figure.better for figure in found.costs][-2:] == ["tie", "tie"]
    assert found.sets[0].auroc.interval == (0, 0)


def test_images_and_sounds_are_not_compared(bundle_folder: Path, copied_bundle: Path) -> None:
    path = copied_bundle / bundle.MANIFEST
    told = records.read_json(path)
    told["input"] = {"modality": "audio", "sample_rate_hz": 8000, "num_samples": 64}
    path.write_text(json.dumps(told))
    with pytest.raises(BundleError, match="B: got a bundle of audio, expected one of image"):
        open_sides(bundle_folder, copied_bundle)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere", "BUNDLE"], "A: got /nowhere, in which is no bundle.json, expected the folder of a bundle"),
        (["BUNDLE", "/nowhere"], "B: got /nowhere, in which is no bundle.json"),
        (["BUNDLE", "BUNDLE", "--data", "nonsense"], "data: got 'nonsense', expected one of"),
        (["BUNDLE", "BUNDLE", "--data", "fsdd"], "fsdd has no such option"),
        (["BUNDLE", "BUNDLE", "--data", "folder:FEW"], "expected at least 20"),
        (["BUNDLE", "BUNDLE", "--data", "folder:SOME"], "expected 20 or more: so few tell no difference from chance"),
        (["BUNDLE", "BUNDLE", "--against", "digits"], "against: got digits, the data that are compared on"),
        (["BUNDLE", "BUNDLE", "--data", "shapes", "--against", "digits"], "against: got digits, which A was trained"),
        (["BUNDLE", "BUNDLE", "--alpha", "0.001"], "alpha: got 0.001, expected at least 0.00332, A's smallest p-value"),
        (["BUNDLE", "BUNDLE", "--against", "others"], "against: got others for a model of all of digits"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_sentence(
    arguments: list[str],
    said: str,
    bundle_folder: Path,
    tmp_path: Path,
    encode: Encode,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"BUNDLE": str(bundle_folder)}
    for name, num in (("FEW", 5), ("SOME", 40)):
        if f"folder:{name}" in arguments:
            places[f"folder:{name}"] = f"folder:{write_images(tmp_path / name, num, encode)}"
    assert main(["compare", *(places.get(one, one) for one in arguments)]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said in error


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": 19}, "rows: got 19, expected 20 or more"),
        ({"alpha": 1.0}, "alpha: got 1.0, expected between 0 and 1"),
        ({"seed": -1}, "seed: got -1, expected 0"),
        ({"json": Path("x"), "html": Path("x")}, "html: got x, expected another file than that of json"),
    ],
)
def test_options_that_cannot_be_are_rejected(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(Path("a"), Path("b"), **given)


def test_a_bundle_whose_data_are_gone_is_said_not_to_be_known(
    bundle_folder: Path, other_folder: Path, tmp_path: Path, encode: Encode
) -> None:
    a, b = open_sides(bundle_folder, other_folder)
    moved = replace(b, origin=replace(b.origin, data="folder:/gone"))
    pair = load_pair(a, moved, f"folder:{write_images(tmp_path / 'set', 120, encode)}", 10_000, 0)
    assert any("Whether B was trained on some of the test rows is not known" in note for note in pair.notes)
