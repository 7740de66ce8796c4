from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from export import graphs
from export.__main__ import main
from export.calibration import Promise, calibrate
from export.detectors.fusion import FUSED
from export.exporter import export_run
from export.graphs import ExportError, GraphRunner, export_graph
from export.parity import check_parity, trained_tensors
from latentserve import bundle
from latentserve.conformal import p_values
from latentserve.devices import CUDA
from service.engine.engine import Engine
from service.engine.providers import DeviceConfig
from training.__main__ import Options, run_training
from training.data import load_data
from training.methods.encoding import Encoding
from training.methods.vae import VaeConfig, bernoulli_nll
from training.running.run import Run, load_model, open_run

pytestmark = pytest.mark.usefixtures("graphs_are_written_once")


@pytest.fixture(scope="module")
def model(run_folder: Path) -> Any:
    return load_model(run_folder, open_run(run_folder)[0])


@pytest.fixture(scope="module")
def runner(bundle_folder: Path) -> GraphRunner:
    return GraphRunner(bundle_folder, bundle.load(bundle_folder).graphs.values())


def test_the_exported_graphs_return_what_the_trained_model_returns(
    runner: GraphRunner, model: Any, digits: NDArray[np.uint8]
) -> None:
    got, expected = runner.with_patches().run(digits), trained_tensors(model, None, digits)
    assert expected.keys() == {"embedding", "latent", "latent_scale", "patches", "reconstruction"}
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5)


def test_a_model_without_a_posterior_is_scored_by_its_embedding(tmp_path: Path) -> None:
    config = VaeConfig(latent_dim=4, embedding_dim=16, width=4, objective="autoencoder")
    run = run_training("vae", config, Options(smoke=True, run=tmp_path / "run"))
    folder = export_run(run, tmp_path / "models", promise=Promise(detectors=("all",)))
    manifest = bundle.load(folder)
    assert set(manifest.graphs) == {"encoder", "decoder", "scorer"}
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["embedding", "latent", "patches"]
    names = [detector.name for detector in manifest.detectors]
    on_embedding = ["mahalanobis", "cluster_mahalanobis", "knn", "density", "magnitude"]
    on_input = ["input_mahalanobis", "input_knn", "edge_knn"]
    on_places = {"patch_places", "patch_bank", "coarse_places", "reconstruction_places"}
    assert names[:-4] == ["weighted", "cauchy", "bonferroni", *on_embedding, *on_input]
    assert set(names[-4:]) == on_places
    assert {spec.name for spec in manifest.graphs["scorer"].inputs} == {
        "embedding",
        "input",
        "patches",
        "reconstruction",
    }
    assert {"linear_probe_accuracy", "reconstruction_nats"} <= {one.name for one in manifest.evaluations}
    assert (folder / bundle.REPORT).is_file()


def test_too_few_calibration_rows_make_a_bundle_that_does_not_score(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Promise, "alpha", 1 / 302)  # as if the default level were so low: 300 rows are there
    folder = export_run(run_folder, tmp_path, report="none", promise=Promise(alpha=1 / 302))
    told = capsys.readouterr().err
    assert told.index("no scores: ") < told.index("export: graphs")  # before any work
    assert "no scores: 300 calibration rows cannot keep a level of 0.00331126, which takes 301" in told
    manifest = bundle.load(folder)
    assert manifest.detectors == ()
    assert "scorer" not in manifest.graphs


def test_detectors_are_the_exporter_s_choice(run_folder: Path, tmp_path: Path) -> None:
    command = [str(run_folder), "--to", str(tmp_path), "--report", "none", "--detectors"]
    assert main([*command, "knn"]) == 0
    alone = bundle.load(tmp_path / "digits-vae" / "1")
    assert [detector.name for detector in alone.detectors] == ["knn"]
    assert (alone.map_detector, [spec.name for spec in alone.graphs["scorer"].inputs]) == ("", ["embedding"])
    assert main([*command, "patch_bank", "knn", "--deciding", "knn"]) == 0
    two = bundle.load(tmp_path / "digits-vae" / "2")
    assert [detector.name for detector in two.detectors] == ["knn", "weighted", "cauchy", "bonferroni", "patch_bank"]
    assert two.map_detector == "patch_bank"
    golden = bundle.load_golden(tmp_path / "digits-vae" / "2", two)
    got = GraphRunner(tmp_path / "digits-vae" / "1", alone.graphs.values()).run(golden["input"])["scores"]
    np.testing.assert_allclose(got[:, 0], golden["scores"][:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detectors", "nobody"], "detectors: got 'nobody', expected some of "),
        (["--detectors", "weighted"], "detectors: got 'weighted', expected some of "),
        (["--detectors", "all", "knn"], "detectors: got all knn, expected all alone, or names without it"),
        (
            ["--detectors", "knn", "--deciding", "density"],
            "deciding: got 'density', expected one of --detectors",
        ),
        (["--detectors", "knn", "--deciding", "cauchy"], "deciding: got 'cauchy', expected one of --detectors"),
        (["--detectors", "knn", "likelihood"], "detectors: got likelihood, which looks at what this model does not"),
    ],
)
def test_detectors_that_cannot_be_are_refused_before_rows_are_embedded(
    options: list[str], message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_folder), "--to", str(tmp_path), *options]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "detectors and calibration" not in said
    assert not list(tmp_path.iterdir())


def test_what_p_values_promise_is_the_exporter_s_choice(run_folder: Path, tmp_path: Path) -> None:
    promised = ["--alpha", "0.02", "--delta", "0.2", "--adjustment", "dkwm", "--detectors", "mahalanobis", "knn"]
    assert main([str(run_folder), "--to", str(tmp_path), "--report", "none", *promised]) == 0
    manifest = bundle.load(tmp_path / "digits-vae" / "1")
    assert manifest.default_alpha == 0.02
    assert {(detector.delta, detector.adjustment) for detector in manifest.detectors} == {(0.2, "dkwm")}
    for wrong in ({"alpha": 0.0}, {"delta": 1.0}):
        with pytest.raises(ValueError, match="expected between 0 and 1"):
            Promise(**wrong)


def test_who_decides_is_the_exporter_s_choice(run_folder: Path, tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    some = ("mahalanobis", "knn", "input_knn", "patch_bank")
    by_all = export_run(run_folder, tmp_path, "by-all", "none", promise=Promise(detectors=some))
    by_one = export_run(run_folder, tmp_path, "by-one", "none", promise=Promise(deciding="knn", detectors=some))
    manifests = [bundle.load(folder) for folder in (by_all, by_one)]
    columns = [[detector.name for detector in manifest.detectors] for manifest in manifests]
    assert columns[0][0] == "weighted"
    for manifest in manifests:
        of_name = {detector.name: (detector.power, detector.weight) for detector in manifest.detectors}
        assert [of_name.pop(name) for name in FUSED] == [(None, 0.0)] * 3
        assert sum(weight for _, weight in of_name.values()) == pytest.approx(1)
        assert all(power is not None and 0 <= power <= 1 for power, _ in of_name.values())
    assert columns[1] == ["knn", *(name for name in columns[0] if name != "knn")]
    scores = [
        GraphRunner(folder, bundle.load(folder).graphs.values()).run(digits[:20])["scores"]
        for folder in (by_all, by_one)
    ]
    for column, name in enumerate(columns[1]):
        np.testing.assert_array_equal(scores[1][:, column], scores[0][:, columns[0].index(name)])
    with pytest.raises(ExportError, match="deciding: got 'nobody', expected one of weighted, cauchy, bonferroni, "):
        export_run(run_folder, tmp_path, promise=Promise(deciding="nobody"))


def test_the_bank_is_left_out_of_digits_for_others_see_as_much(bundle_folder: Path) -> None:
    manifest = bundle.load(bundle_folder)
    names = [detector.name for detector in manifest.detectors]
    assert "patch_places" in names
    assert "patch_bank" not in names
    stored = bundle.load_arrays(bundle_folder / bundle.CALIBRATION)
    assert set(names) <= set(stored)
    assert "patch_bank" not in stored
    assert "patch_bank is left out: other detectors see as much" in (bundle_folder / bundle.REPORT).read_text()


def test_pixels_go_in_as_they_are(bundle_folder: Path) -> None:
    graph = onnx.load(bundle_folder / "encoder.onnx").graph
    (given,) = graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [axis.dim_value for axis in given.type.tensor_type.shape.dim[1:]] == [8, 8, 1]
    assert given.type.tensor_type.shape.dim[0].dim_param


def test_a_graph_tells_nothing_of_the_machine_that_made_it(bundle_folder: Path) -> None:
    for path in bundle_folder.glob("*.onnx"):
        assert str(Path.home()).encode() not in path.read_bytes()
        assert b".py" not in path.read_bytes()


def test_a_graph_that_is_off_is_rejected_and_leaves_nothing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GraphRunner.run

    def off(self: GraphRunner, rows: Any, batch_rows: int = 500) -> Any:
        tensors = original(self, rows, batch_rows)
        return tensors | {"latent": tensors["latent"] + 0.01}

    monkeypatch.setattr(GraphRunner, "run", off)
    with pytest.raises(ExportError, match=r"latent: the exported graph is 0.01 off .*expected at most"):
        export_run(run_folder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_returns_no_numbers_is_rejected(
    runner: GraphRunner, model: Any, digits: NDArray[np.uint8]
) -> None:
    class Broken:
        graphs = runner.graphs

        def run(self, rows: Any, batch_rows: int) -> Any:
            tensors = runner.with_patches().run(rows, batch_rows)
            return tensors | {"embedding": tensors["embedding"] * np.nan}

    with pytest.raises(ExportError, match="embedding: the exported graph is inf off"):
        check_parity(Broken(), model, None, digits)  # type: ignore[arg-type]


def test_a_model_that_rounds_badly_itself_is_allowed_as_much_and_no_more(digits: NDArray[np.uint8]) -> None:
    class Badly(torch.nn.Module):
        """A large number is added and taken away again."""

        def encode(self, x: torch.Tensor) -> Encoding:
            return Encoding(embedding=(x.flatten(1) + 1e5) - 1e5)

    class Off:
        def __init__(self, errors: float) -> None:
            self.errors = errors

        def run(self, rows: Any, batch_rows: int) -> Any:
            x = torch.from_numpy(rows).flatten(1) / 255
            own = float((((x + 1e5) - 1e5) - x).abs().max())
            return {"embedding": trained_tensors(Badly(), None, rows)["embedding"] + np.float32(self.errors * own)}

    (parity,) = check_parity(Off(3.0), Badly(), None, digits)  # type: ignore[arg-type]
    assert 1e-3 < parity.max_abs_error < parity.tolerance < 0.1
    with pytest.raises(ExportError, match="embedding: the exported graph is"):
        check_parity(Off(5.0), Badly(), None, digits)  # type: ignore[arg-type]


def test_splits_that_are_constant_where_training_is_not_are_exported_and_scored(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("digits")
    blank = [replace(split, values=np.zeros_like(split.values)) for split in (data.calibration, data.test)]
    constant = replace(data, calibration=blank[0], test=blank[1])
    monkeypatch.setattr(Run, "load_data", lambda self: constant)
    folder = export_run(run_folder, tmp_path, report="none")
    manifest = bundle.load(folder)
    scores = GraphRunner(folder, manifest.graphs.values()).run(blank[1].values)["scores"]
    for column, ordered in enumerate(bundle.load_calibration(folder, manifest).values()):
        assert p_values(scores[:, column], ordered).min() == 1
    Engine(folder, manifest, DeviceConfig("cpu", 1, 64)).check_golden(bundle.load_arrays(folder / bundle.GOLDEN))


def test_one_image_again_and_again_is_trained_exported_and_scored(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for i in range(200):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{i}.png")
    options = Options(data=f"folder:{tmp_path / 'frames'}", image_size=16, smoke=True, run=tmp_path / "run")
    run = run_training("vae", VaeConfig(latent_dim=4, embedding_dim=16, width=4), options)
    folder = export_run(run, tmp_path / "models", "frozen")
    manifest = bundle.load(folder)
    runner = GraphRunner(folder, manifest.graphs.values())
    same, other = (runner.run(rows[None])["scores"][:, 0] for rows in (frame, 255 - frame))
    ordered = bundle.load_calibration(folder, manifest)["weighted"]
    assert p_values(same, ordered) == 1
    assert p_values(other, ordered) == manifest.detectors[0].smallest_p_value


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_scores_may_be_off_where_no_p_value_moves_and_not_where_one_does(precision: Any) -> None:
    rows = np.arange(64, dtype=np.uint8)[:, None, None, None].repeat(4, axis=1)
    calibration = {"flat": np.linspace(0, 1, 99, dtype=np.float32), "steep": np.linspace(0, 2e-4, 99, dtype=np.float32)}

    class Pixels(torch.nn.Module):
        def encode(self, x_BCHW: torch.Tensor) -> Encoding:
            return Encoding(embedding=x_BCHW.flatten(1))

    class Fake:
        inputs = ("embedding",)
        outputs = ("scores",)

        def with_map(self, embedding: torch.Tensor) -> tuple[torch.Tensor]:
            return (self(embedding),)

        def maps(self, tensors: Any) -> dict[str, NDArray[np.float32]]:
            return {"scores": self.scores(tensors)}

        def __call__(self, embedding: torch.Tensor) -> torch.Tensor:
            return torch.stack([embedding[:, 0] + 2, 0 * embedding[:, 0] + 1e-4], dim=1)

        def scores(self, tensors: Any) -> NDArray[np.float32]:
            return self(torch.from_numpy(tensors["embedding"])).numpy()

    class Off:
        def __init__(self, flat: float, steep: float) -> None:
            self.errors = np.array([flat, steep], np.float32)

        def run(self, rows: Any, batch_rows: int) -> Any:
            tensors = trained_tensors(Pixels(), None, rows)
            return tensors | {"scores": Fake().scores(tensors) + self.errors}

    def check(runner: Any, known: Any) -> Any:
        return check_parity(runner, Pixels(), Fake(), rows, precision, known)  # type: ignore[arg-type]

    *_, parity = check(Off(0.5, 1e-8), calibration)  # all beyond the calibration rows
    assert parity.max_abs_error == pytest.approx(0.5)
    assert parity.max_abs_error <= parity.tolerance
    with pytest.raises(ExportError, match="scores: the exported graph is 0.5 off"):
        check(Off(0.5, 1e-8), None)
    expected = r"scores: with the exported graph p by steep is 0.31, expected 0.51 \+- 0.06 of the trained model"
    with pytest.raises(ExportError, match=expected):  # though 1e-4 is allowed
        check(Off(0, 4e-5), calibration)
    check(Off(0, 1e-5), calibration)  # five ranks of a hundred


def test_infinite_scores_are_rejected_at_every_precision(digits: NDArray[np.uint8]) -> None:
    class Pixels:
        def encode(self, x_BHWC: torch.Tensor) -> Encoding:
            return Encoding(embedding=x_BHWC.flatten(1))

    class Infinite:
        """Of what a graph returns; what the model itself returns has a finite score."""

        def scores(self, tensors: Any) -> NDArray[np.float32]:
            rounded = tensors["embedding"][:, :1] % 1 != 0
            return np.where(rounded, np.float32(np.inf), np.float32(1))

        def maps(self, tensors: Any) -> dict[str, NDArray[np.float32]]:
            return {"scores": self.scores(tensors)}

    class Runner:
        def run(self, rows: Any, batch_rows: int) -> Any:
            embedding = trained_tensors(Pixels(), None, rows)["embedding"] + np.float32(0.003)
            return {"embedding": embedding, "scores": np.ones((len(rows), 1), np.float32)}

    for precision in ("int8", "float16"):
        with pytest.raises(ExportError, match="scores: the exported graph is inf off"):
            check_parity(Runner(), Pixels(), Infinite(), digits[:8], precision)  # type: ignore[arg-type]


def test_a_row_axis_that_was_fixed_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:1].expand(2, -1).contiguous()

    with pytest.raises(ExportError, match="y: the exporter fixed the row axis"):
        export_graph(Fixed(), {"x": torch.zeros(2, 3)}, ["y"], tmp_path / "g.onnx")


def test_losses_exported_as_graphs_stay_finite_for_any_logit(tmp_path: Path) -> None:
    class Loss(torch.nn.Module):
        def forward(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return bernoulli_nll(logits, x)

    logits = torch.tensor([-150.0, -90.0, -10.0, 0.0, 10.0, 90.0, 150.0]).reshape(-1, 1, 1, 1)
    for x in (torch.zeros_like(logits), torch.ones_like(logits)):
        graph = export_graph(Loss(), {"logits": logits[:2], "x": x[:2]}, ["nll"], tmp_path / "l.onnx")
        session = ort.InferenceSession(tmp_path / graph.file, providers=["CPUExecutionProvider"])
        (got,) = session.run(["nll"], {"logits": logits.numpy(), "x": x.numpy()})
        expected = F.binary_cross_entropy_with_logits(logits.double(), x.double(), reduction="none").flatten()
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_quantised_bundle_is_calibrated_on_its_own_numbers(
    run_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    folder = export_run(run_folder, tmp_path, report="none", precision="int8")
    manifest, whole = bundle.load(folder), bundle.load(bundle_folder)
    assert (folder.parent.name, manifest.precision, whole.precision) == ("digits-vae-int8", "int8", "float32")
    assert manifest.embedding_space != whole.embedding_space
    assert (folder / "encoder.onnx").stat().st_size < 0.7 * (bundle_folder / "encoder.onnx").stat().st_size
    data = load_data("digits")
    runner = GraphRunner(folder, manifest.graphs.values())
    got = runner.run(data.calibration.values)
    np.testing.assert_array_equal(np.sort(got["scores"][:, 0]), bundle.load_calibration(folder, manifest)["weighted"])
    exact = GraphRunner(bundle_folder, whole.graphs.values()).run(data.calibration.values)["embedding"]
    off = np.abs(got["embedding"] - exact).max() / np.abs(exact).max()
    assert 0 < off < 0.1
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(folder / "encoder.onnx").graph.initializer]
    eight_bit = [one for one in weights if one.dtype == np.int8 and one.ndim > 1]
    assert eight_bit
    assert max(np.abs(one.astype(int)).max() for one in eight_bit) <= 64  # two products of them and 255 fit in 16 bits
    engine = Engine(folder, manifest, DeviceConfig("cpu", 1, 64))
    engine.check_golden(bundle.load_arrays(folder / bundle.GOLDEN))


def test_a_bundle_of_16_bits_is_calibrated_on_its_own_numbers(
    run_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    folder = export_run(run_folder, tmp_path, report="none", precision="float16")
    manifest, whole = bundle.load(folder), bundle.load(bundle_folder)
    assert (folder.parent.name, manifest.precision) == ("digits-vae-float16", "float16")
    assert manifest.embedding_space != whole.embedding_space
    assert (folder / "encoder.onnx").stat().st_size < 0.7 * (bundle_folder / "encoder.onnx").stat().st_size
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(folder / "encoder.onnx").graph.initializer]
    assert {one.dtype for one in weights if one.ndim > 1} == {np.dtype(np.float16)}
    rows = load_data("digits").calibration.values
    got = GraphRunner(folder, manifest.graphs.values()).run(rows)
    assert got["embedding"].dtype == np.float32
    np.testing.assert_array_equal(np.sort(got["scores"][:, 0]), bundle.load_calibration(folder, manifest)["weighted"])
    exact = GraphRunner(bundle_folder, whole.graphs.values()).with_patches().run(rows)
    assert 0 < np.abs(got["embedding"] - exact["embedding"]).max() / np.abs(exact["embedding"]).max() < 0.01
    scorer = ort.InferenceSession(folder / "scorer.onnx", providers=["CPUExecutionProvider"])
    given = {"input": rows, **exact}
    (scores,) = scorer.run(["scores"], {one.name: given[one.name] for one in scorer.get_inputs()})
    (allowed,) = (one.tolerance for one in manifest.parity if one.tensor == "scores")
    assert np.abs(scores - got["scores"])[:64].max() < allowed  # a GPU's numbers lie between the two
    Engine(folder, manifest, DeviceConfig("cpu", 1, 64)).check_golden(bundle.load_arrays(folder / bundle.GOLDEN))


def test_the_next_version_is_written_beside_the_last(run_folder: Path, tmp_path: Path) -> None:
    first = export_run(run_folder, tmp_path, "mine", report="none")
    second = export_run(run_folder, tmp_path, "mine", report="none")
    assert (first, second) == (tmp_path / "mine" / "1", tmp_path / "mine" / "2")
    one, two = bundle.load(first), bundle.load(second)
    assert one.embedding_space == two.embedding_space  # the same encoder: embeddings may be compared
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["1", "2"]


def test_an_image_without_any_light_gets_a_finite_score(runner: GraphRunner) -> None:
    flat = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (0, 255)])
    assert np.isfinite(runner.run(flat)["scores"]).all()


def test_calibration_is_on_rows_nobody_saw(bundle_folder: Path, runner: GraphRunner) -> None:
    manifest = bundle.load(bundle_folder)
    data = load_data("digits")
    tensors = runner.run(data.calibration.values)
    stored = bundle.load_calibration(bundle_folder, manifest)
    assert len(stored) == tensors["scores"].shape[1] == len(manifest.detectors)
    for column, name in enumerate(stored):
        np.testing.assert_array_equal(stored[name], np.sort(tensors["scores"][:, column]))
    scores = stored[manifest.detectors[0].name]
    p = p_values(scores, scores)
    assert p.min() == pytest.approx(2 / 301)  # the calibration row with the highest score itself
    assert manifest.detectors[0].smallest_p_value == 1 / 301


def test_scores_that_are_no_numbers_are_not_calibrated() -> None:
    with pytest.raises(ValueError, match="d: 1 calibration scores are not finite"):
        calibrate("d", "m", np.array([1.0, np.nan], np.float32), Promise())


def test_the_report_shows_what_the_model_is(bundle_folder: Path) -> None:
    page = (bundle_folder / bundle.REPORT).read_text()
    titles = (
        "Evaluation report",
        "Other figures",
        "Training",
        "Labels curve",
        "Robustness",
        "Equivariance",
        "False alarms",
    )
    titles += (
        "Map of the embedding",
        "Nearest neighbours",
        "Reconstructions",
        "Latent traversals",
        "Parity",
        "ROC curves",
    )
    for title in titles:
        assert f"<details><summary><h3>{title}</h3></summary>" in page
    assert page.count('class="chart"') == 9
    assert "baseline: PCA-16" in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize(("present", "message"), [(False, "got no run.json"), (True, "not finished")])
def test_what_is_no_finished_run_is_rejected(
    present: bool, message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if present:
        shutil.copy(run_folder / "run.json", tmp_path)
    assert main([str(tmp_path), "--to", str(tmp_path / "models")]) == 1
    assert message in capsys.readouterr().err


def test_a_bundle_for_a_gpu_is_fitted_calibrated_and_verified_on_it_or_not_made(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16-bit products are rounded on a GPU alone: p-values of calibration rows that a CPU ran might not hold there."""
    if CUDA in graphs.ort.get_available_providers():
        monkeypatch.setattr(graphs.ort, "preload_dlls", lambda: None)
    expected = r"device: got no working CUDA \(.*\), expected one, because device is .cuda."
    with pytest.raises(ExportError, match=expected):
        export_run(run_folder, tmp_path / "models", report="none", device="cuda")
    assert not list((tmp_path / "models").glob("*"))

    ran_on: list[str] = []
    on_cpu = graphs._session

    def pretended(path: Path, device: Any) -> Any:
        ran_on.append(device)
        return on_cpu(path, "cpu")

    monkeypatch.setattr(graphs, "_session", pretended)
    folder = export_run(run_folder, tmp_path / "models", report="none", device="cuda")
    assert set(ran_on) == {"cuda"}
    manifest = bundle.load(folder)
    assert manifest.provenance.versions["execution_provider"] == CUDA
    assert not (folder / bundle.REPORT).exists()  # report="none"
    assert manifest.detectors


def test_embedding_statistics_are_those_of_the_calibration_rows(bundle_folder: Path, runner: GraphRunner) -> None:
    """The service asks whether what comes looks like them: rows that were trained on lie elsewhere."""
    data = load_data("digits")
    found = bundle.load_embedding_statistics(bundle_folder, bundle.load(bundle_folder))
    assert found is not None
    for split, equal in ((data.calibration, True), (data.train, False), (data.test, False)):
        embedding = runner.run(split.values)["embedding"].astype(np.float64)
        for got, expected in zip(found, (embedding.mean(axis=0), embedding.std(axis=0)), strict=True):
            assert np.allclose(got, expected, rtol=1e-5, atol=1e-6) is equal
