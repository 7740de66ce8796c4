from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export.__main__ import main
from export.calibration import Promise
from export.draft import Choices
from export.examination import Examination, examine
from export.graphs import ExportError
from export.importer import Order, default_name, import_encoder
from export.origin import Imported, read_config
from export.sources import SourceOptions
from latentserve import bundle, records
from latentserve.cli import arguments
from latentserve.cli.main import main as main_of_client
from latentserve.images import decode_image
from latentserve.inputs import ImageInput, Resize
from service.api.embedding import _describe
from service.engine.engine import Engine
from service.engine.providers import DeviceConfig
from service.models.model import ServedModel
from tests.export.sources import tiny
from training.data.shares import Calibration
from training.evaluation.comparison import ReportOptions
from training.running.run import Run, RunError

SIZE = (20, tiny.SIZE)
SAID = SourceOptions(image_size=SIZE, resize="fit", mean=(0.4, 0.5, 0.6), patches="auto", embedding="mean")
TINY = "python:tests.export.sources.tiny:"


@pytest.fixture(scope="module")
def imported(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, by the command; not to be changed."""
    models = tmp_path_factory.mktemp("models")
    (models / "licence.txt").write_text("Mine.\nDo as you like.\n")
    said = ["--image-size", "20x24", "--resize", "fit", "--mean", "0.4", "0.5", "0.6", "--patches", "auto"]
    said += ["--embedding", "mean", "--licence", str(models / "licence.txt")]
    assert main(["import", f"{TINY}places", "--data", f"folder:{photos}", "--to", str(models), *said]) == 0
    (models / "licence.txt").unlink()
    return models / "tests.export.sources.tiny-places" / "1"


def test_a_bundle_says_where_its_encoder_came_from(imported: Path, photos: Path) -> None:
    manifest = bundle.load(imported)
    assert manifest.input == ImageInput(*SIZE, 3, resize=Resize("fit"))
    source = manifest.provenance
    assert (source.method, source.data, source.epochs, source.device) == ("import", f"folder:{photos}", 0, "none")
    origin = read_config(source, imported)
    assert isinstance(origin, Imported)
    assert (origin.source, origin.licence) == (f"{TINY}places", "Mine.\nDo as you like.\n")
    assert origin.options["resize"] == "fit"
    assert len(origin.weights_sha256) == 64
    assert origin.load_data().fingerprint == source.data_sha256
    assert manifest.embedding_space == bundle.embedding_space(manifest.files["encoder.onnx"])


def test_a_training_run_s_provenance_reads_as_before(bundle_folder: Path, imported: Path) -> None:
    assert isinstance(read_config(bundle.load(bundle_folder).provenance, bundle_folder), Run)
    broken = bundle.load(imported).provenance
    del broken.config["weights_sha256"]
    with pytest.raises(RunError, match=r"x: provenance.config: Imported: key 'weights_sha256' is missing"):
        read_config(broken, "x")


def test_what_is_served_is_what_the_network_gives_for_the_file(imported: Path, photos: Path) -> None:
    manifest = bundle.load(imported)
    engine = Engine(imported, manifest, DeviceConfig("cpu", 1, 8))
    engine.warm_up()
    engine.check_golden(bundle.load_golden(imported, manifest))
    file = sorted(photos.rglob("*.jpg"))[7]
    assert isinstance(manifest.input, ImageInput)
    row = decode_image(file.read_bytes(), manifest.input, 10**6)
    with Image.open(file) as image:
        given = np.zeros((*SIZE, 3), np.float32)
        small = image.copy()
        scale = min(SIZE[0] / small.height, SIZE[1] / small.width)
        small = small.resize((round(small.width * scale), round(small.height * scale)), Image.Resampling.BILINEAR)
        top, left = round((SIZE[0] - small.height) / 2), round((SIZE[1] - small.width) / 2)
        given[top : top + small.height, left : left + small.width] = np.asarray(small)
    x = torch.from_numpy(given / 255 - np.float32([0.4, 0.5, 0.6])).permute(2, 0, 1)[None]
    expected = tiny.places().eval()(x).mean(dim=(2, 3)).detach().numpy()
    (got,) = engine.run("input", [_piece(row, {"embedding", "scores"})])
    np.testing.assert_allclose(got["embedding"], expected, atol=1e-4)


def _piece(row: Any, wants: set[str]) -> Any:
    from service.engine.engine import Piece

    return Piece(row[None], frozenset(wants))


def test_a_server_and_its_client_name_the_source(
    imported: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: Any = None
    model = ServedModel(bundle.load(imported), "CPU", given, given, None, {}, {})
    described = _describe(model)
    assert described.source == f"{TINY}places"
    listed = SimpleNamespace(list_models=lambda: SimpleNamespace(models=[described], rejected=[]))
    monkeypatch.setattr(arguments, "client", lambda options: nullcontext(listed))
    assert main_of_client(["models"]) == 0
    said = capsys.readouterr().out
    assert f"version 1: import of {TINY}places, calibrated on folder:{photos}, CPU\n" in said


def test_patches_are_computed_where_they_are_asked_for(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine.runners import HostRunner

    manifest = bundle.load(imported)
    assert manifest.outputs["patches"].shape == (4, 5, 8)
    assert "patches" in bundle.load_golden(imported, manifest)
    asked = list[set[str]]()
    run = HostRunner.run

    def noted(self: HostRunner, *arguments: Any) -> Any:
        asked.append(set(made := run(self, *arguments)))
        return made

    monkeypatch.setattr(HostRunner, "run", noted)
    engine = Engine(imported, manifest, DeviceConfig("cpu", 1, 8))
    row = np.zeros((*SIZE, 3), np.uint8)
    engine.run("input", [_piece(row, {"embedding"})])
    (got,) = engine.run("input", [_piece(row, {"embedding", "patches"})])
    assert asked == [{"embedding"}, {"embedding", "patches"}]
    assert got["patches"].shape == (1, 4, 5, 8)


def test_the_report_tells_of_no_training(imported: Path) -> None:
    page = (imported / bundle.REPORT).read_text()
    assert "It was trained elsewhere and imported from python:tests.export.sources.tiny:places." in page
    assert "Mine." in page
    for word in ("untrained network", "epochs", "Is it trained?"):
        assert word not in page, word
    names = {one.name for one in bundle.load(imported).evaluations}
    assert "linear_probe_accuracy" in names


def test_an_imported_bundle_is_evaluated_and_examined_as_others_are(imported: Path) -> None:
    from export.onnx_evaluation import evaluate_bundle

    found, _ = examine(imported, ("noise",), num_rows=20)
    assert found.num_id == 20
    features = {one.features for one in evaluate_bundle(imported, None, ReportOptions(rows=40)).metrics}
    assert features == {"embedding"}
    sets = {one.data for one in evaluate_bundle(imported, "digits", ReportOptions(rows=40)).metrics}
    assert sets == {"digits test"}


def test_an_embedding_that_is_not_finite_is_told_with_its_image(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, file in enumerate(sorted(photos.rglob("*.jpg"))[:30]):
        (folder / f"{place}.jpg").write_bytes(file.read_bytes())
    Image.new("RGB", (30, 30)).save(folder / "black.png")
    order = Order(f"{TINY}not_finite", f"folder:{folder}", tmp_path / "models")
    with pytest.raises(Exception, match=r"black.png: its embedding is not finite; no bundle was written"):
        import_encoder(order, SourceOptions(image_size=SIZE), Choices("none"))
    assert not (tmp_path / "models").exists()


def test_standard_output_is_the_path_alone_and_that_there_are_no_scores_comes_last(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for place, file in enumerate(sorted(photos.rglob("*.jpg"))[:37]):
        (folder / f"{place}.jpg").write_bytes(file.read_bytes())
    given = ["--image-size", "24", "--data", f"folder:{folder}", "--to", str(tmp_path / "models")]
    assert main(["import", f"{TINY}talking", *given, "--report", "none", "--shorter-side", "30"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/models/tests.export.sources.tiny-talking/1\n"
    assert "loading weights\n" in err
    lines = err.splitlines()
    said = "no scores: 3 calibration rows cannot keep a level of 0.05, which takes 19"
    assert lines[-1] == f"export: {said}"
    assert lines.index(f"export: there will be {said}") < lines.index("export: graphs")
    assert "import: the source cuts the centre out of each image; --resize fit or --resize stretch keeps" in err


def test_a_network_that_gives_the_same_for_every_image_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place in range(20):
        Image.new("RGB", (24, 24), (place, 2 * place, 30)).save(folder / f"{place}.png")
    order = Order(f"{TINY}dead", f"folder:{folder}", tmp_path / "models")
    import_encoder(order, SourceOptions(image_size=(24, 24)), Choices("none"))
    assert "the first 4 training rows differ, and all have one embedding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("timm:mobilenetv2_100.ra_in1k=x.pth", "mobilenetv2_100.ra_in1k"),
        ("hf:/models/dinov2-small/", "dinov2-small"),
        ("onnx:some where/my net.onnx", "my-net"),
        ("python:a.b:make", "a.b-make"),
    ],
)
def test_names_of_models_come_from_their_source(source: str, name: str) -> None:
    assert default_name(source) == name


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"--data": "digts"}, "data: got 'digts'"),
        ({"--data": "fsdd"}, "data: got fsdd, which are sounds, expected images, which the encoder takes"),
        ({"--name": "a b"}, "name: got 'a b'"),
        ({"--to": "/dev/null"}, "to: got /dev/null"),
        ({"--licence": "/nowhere"}, "licence: got /nowhere, expected a text file"),
        ({"--alpha": "0.0001"}, "alpha: got 0.0001, expected 0.0"),
        ({"--seed": "-1"}, "seed: got -1"),
        ({"--deciding": "nobody", "--data": "folder:/nowhere"}, "deciding: got 'nobody', expected one of weighted"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing(
    said: dict[str, str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--data": "digits", "--to": str(tmp_path / "models"), "--report": "none"} | said
    arguments = [part for pair in given.items() for part in pair]
    assert main(["import", f"{TINY}net", "--image-size", "24", *arguments]) == 1
    assert f"error: {told}" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


CROSSED = Calibration(crosses=True)


@pytest.fixture(scope="module")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 40 photographs, one of which stands twice; not to be changed."""
    folder = tmp_path_factory.mktemp("few")
    for file in sorted(photos.glob("*/*.jpg"))[:40]:
        shutil.copy(file, folder / file.name)
    shutil.copy(sorted(folder.iterdir())[0], folder / "twin.jpg")
    order = Order(f"{TINY}places", f"folder:{folder}", tmp_path_factory.mktemp("models"), "few", calibration=CROSSED)
    return import_encoder(order, SAID, Choices("quick"))


def test_of_few_rows_each_calibrates_by_detectors_that_never_saw_it(few: Path) -> None:
    manifest = bundle.load(few)
    origin = read_config(manifest.provenance, few)
    assert isinstance(origin, Imported)
    data = origin.load_data()
    assert len(data.calibration) == 0
    num = len({row.tobytes() for row in data.train.values})
    assert {(one.calibration, one.num_calibration_rows) for one in manifest.detectors} == {("cross", num)}
    page = (few / bundle.REPORT).read_text()
    assert "each scored by a fit without its fold" in page
    found, _ = examine(few, ("noise",))
    assert found.rows[0].figures.auroc > 0.9


def test_maps_are_held_against_masks_by_kind(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    for i in range(6):
        pixels = rng.integers(60, 70, (40, 48, 3), np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        mask[10:22, 12 + i : 26 + i] = 255
        pixels[mask > 0] = rng.integers(0, 256, (int((mask > 0).sum()), 3))
        for kind, image in (("faults", pixels), ("masks", mask)):
            file = tmp_path / kind / ("hole" if i % 2 else "cut") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    out = tmp_path / "ood.json"
    asked = ["--against", f"folder:{tmp_path / 'faults'}", "--masks", str(tmp_path / "masks")]
    assert main(["ood", str(few), *asked, "--json", str(out), "--html", str(tmp_path / "ood.html")]) == 0
    found = records.read(Examination, out)
    assert [row.kind for row in found.rows if row.detector == found.rows[0].detector] == ["", "cut", "hole"]
    assert [(one.kind, one.num_rows, one.num_regions) for one in found.places] == [
        ("", 6, 6),
        ("cut", 3, 3),
        ("hole", 3, 3),
    ]
    assert all(one.pixel_auroc > 0.6 for one in found.places)
    assert "AUPRO to FPR 0.3" in capsys.readouterr().out
    assert "per-region overlap" in (tmp_path / "ood.html").read_text()


def test_a_share_that_is_asked_for_is_set_aside_of_few_rows_too(few: Path, tmp_path: Path) -> None:
    origin = read_config(bundle.load(few).provenance, few)
    order = Order(f"{TINY}places", origin.data, tmp_path, "half", calibration=Calibration(0.5, crosses=True))
    folder = import_encoder(order, SAID, Choices("none"))
    assert {(one.calibration, one.num_calibration_rows) for one in bundle.load(folder).detectors} == {("split", 20)}


def test_too_few_rows_even_so_are_said_with_what_is_enough(few: Path, tmp_path: Path) -> None:
    origin = read_config(bundle.load(few).provenance, few)
    strict = Choices("none", promise=Promise(0.01))
    order = Order(f"{TINY}places", origin.data, tmp_path, "x", calibration=Calibration(alpha=0.01, crosses=True))
    with pytest.raises(ExportError, match=r"alpha: got 0.01, expected 0.0\d+ or more, the smallest p-value that 3\d"):
        import_encoder(order, SAID, strict)
