"""Served embeddings beside those of the source's own library: what is found, and what is missed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("timm")
pytest.importorskip("transformers")

from benchmarks.encoders_brought import parity, pipelines
from benchmarks.encoders_brought.mobilenet import WEIGHTS as MOBILENET
from benchmarks.encoders_brought.parity import SOURCES, Findings, Options, finding, main, table
from benchmarks.encoders_brought.pipelines import Place
from export.sources import SourceOptions, open_source
from latentserve import records
from latentserve.images import decode_image
from latentserve.inputs import ImageInput
from training.preprocessing import floats_from_rows

WEIGHTS = Path("/tmp/weights")
NORMAL: dict[str, Any] = {"mean": pipelines.MEAN, "std": pipelines.STD}
CROP: dict[str, Any] = {"image_size": (224, 224), "resize": "crop", "shorter_side": 256}
OPTIONS: dict[str, dict[str, Any]] = {
    "timm": {},
    "torchvision": {},
    "python": {"image_size": (96, 96), "resize": "stretch", **NORMAL},
    "onnx": CROP | NORMAL,
    "onnx_bgr": CROP
    | {"order": "BGR", "scale": "integers", "mean": pipelines.NSFW_MEAN, "embedding": pipelines.NSFW_POOLED},
    "hf": {},
}


def jpegs(num: int) -> list[bytes]:
    """Soft shapes of several sizes, in colours."""
    rng, found = np.random.default_rng(0), []
    for _ in range(num):
        size = int(rng.integers(90, 300)), int(rng.integers(90, 300))
        soft = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        soft.save(buffer, "JPEG", quality=92)
        found.append(buffer.getvalue())
    return found


def imported(spec: str, files: list[bytes], options: dict[str, Any]) -> Any:
    network = open_source(spec, SourceOptions(**options))
    assert isinstance(network.input, ImageInput)
    rows = np.stack([decode_image(file, network.input, 10**8) for file in files])
    with torch.no_grad():
        return network.model.encode(floats_from_rows(torch.from_numpy(rows))).embedding.numpy()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_gives_what_its_own_library_gives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(WEIGHTS, tmp_path)
    if name == "hf":
        pipelines.write_dinov2(place.hf)
    elif not (WEIGHTS / "nsfw.onnx").exists():
        pytest.skip("no weights: python -m benchmarks.encoders_brought.weights /tmp/weights")
    monkeypatch.setenv(MOBILENET, str(WEIGHTS / "mobilenetv2_features.pth"))
    files = jpegs(3)
    spec = SOURCES[name].spec.format(weights=place.weights, hf=place.hf)
    own = SOURCES[name].own(place, files)
    assert finding(name, "", imported(spec, files, OPTIONS[name]), own).fits
    if name == "onnx_bgr":  # the bars are such that colours in another order miss them
        assert not finding(name, "", imported(spec, files, OPTIONS[name] | {"order": "RGB"}), own).fits


def test_a_difference_misses_the_bar_unless_it_is_by_design() -> None:
    own = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    near, off = own * np.float32(1 + 1e-5), own + np.float32(1e-3)
    assert finding("x", "", near, own).fits
    assert not finding("x", "", off, own).fits
    assert finding("x", "another filter", off, own).fits
    assert finding("x", "", off, own).absolute == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(SystemExit, match=r"got embeddings \(5, 7\), expected \(5, 8\)"):
        finding("x", "", own[:, :7], own)


def test_an_unknown_source_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options(only=("keras",))) == 2
    assert "only: got 'keras', expected one of timm, torchvision" in capsys.readouterr().err


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_folder_of_transformers_is_imported_served_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        for number, file in enumerate(jpegs(40)):
            (folder / f"{number:03d}.jpg").write_bytes(file)

    monkeypatch.setattr(parity, "write_photos", write)
    monkeypatch.setattr(parity, "RECORD", tmp_path / "record.json")
    (tmp_path / "work").mkdir()
    assert main(Options(work=tmp_path / "work", only=("hf",), record=True)) == 0
    found = records.read(Findings, tmp_path / "record.json")
    same, other = found.findings
    assert same.fits
    assert other.differs
    assert "kept" in table(found)
