from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from latentserve.images import fit_image
from latentserve.inputs import AudioInput, ImageInput
from tests.training.taught import DIM, write_teacher
from training.__main__ import main
from training.data import ImageShape
from training.teacher import ROWS_AT_ONCE, Teacher, TeacherError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("models"))


@pytest.fixture
def rows() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2 * ROWS_AT_ONCE + 7, 8, 8, 1), np.uint8)


def expected(folder: Path, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One row at a time, as a client's images would come."""
    session = ort.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    one = [session.run(["embedding"], {"input": fit_image(row, ImageInput(12, 12, 1))[None]})[0][0] for row in rows]
    return np.stack([vector / np.linalg.norm(vector) for vector in one])


def test_targets_are_the_bundle_s_embeddings_of_rows_at_its_own_size(
    folder: Path, rows: NDArray[np.uint8], tmp_path: Path
) -> None:
    got = Teacher.open(str(folder)).targets(rows, tmp_path / "t", mirrored=True)
    assert (got.shape, got.dtype) == ((len(rows), 2, DIM), np.float16)
    np.testing.assert_allclose(got[:, 0], expected(folder, rows), atol=1e-3)
    np.testing.assert_allclose(got[:, 1], expected(folder, rows[:, :, ::-1]), atol=1e-3)
    plain = Teacher.open(str(folder)).targets(rows, tmp_path / "p", mirrored=False)
    assert plain.shape == (len(rows), 1, DIM)
    np.testing.assert_array_equal(plain[:, 0], got[:, 0])


@pytest.mark.parametrize("kept_rows", [0, 1.5, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3.25])
def test_what_was_computed_before_an_interruption_is_kept_up_to_the_last_whole_part(
    folder: Path, rows: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_rows: float
) -> None:
    teacher = Teacher.open(str(folder))
    whole = np.array(teacher.targets(rows, tmp_path / "whole", mirrored=False))
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[: int(kept_rows * 2 * DIM)])
    seen: list[int] = []
    original = Teacher.embed

    def counted(self: Teacher, part: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(len(part))
        return original(self, part)

    monkeypatch.setattr(Teacher, "embed", counted)
    np.testing.assert_array_equal(teacher.targets(rows, tmp_path / "cut", mirrored=False), whole)
    assert sum(seen) == len(rows) - kept_rows // ROWS_AT_ONCE * ROWS_AT_ONCE
    seen.clear()
    np.testing.assert_array_equal(teacher.targets(rows, tmp_path / "cut", mirrored=False), whole)
    assert not seen  # nothing is left to do


def test_progress_says_a_rate(
    folder: Path, rows: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Teacher.open(str(folder)).targets(rows, tmp_path / "t", mirrored=False)
    assert "teacher: 100%" in (said := capsys.readouterr().err)
    assert "images/s" in said


def test_an_embedding_that_is_no_number_is_said(
    folder: Path, rows: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nan:
        def run(self, *_: Any) -> list[NDArray[np.float32]]:
            return [np.full((len(rows), DIM), np.nan, np.float32)]

    teacher = Teacher.open(str(folder))
    monkeypatch.setitem(teacher.__dict__, "session", Nan())
    with pytest.raises(TeacherError, match="that is not finite"):
        teacher.embed(rows)


def test_a_teacher_of_other_channels_is_refused(folder: Path) -> None:
    with pytest.raises(TeacherError, match=r"whose images have 1 channels, expected 3, as the data has"):
        Teacher.open(str(folder)).check_takes(ImageShape(8, 3))


def test_without_onnx_runtime_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TeacherError, match=r"not installed; install latentserve\[serve-cpu\]"):
        _ = Teacher.open(str(folder)).session


def changed(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes((folder / "encoder.onnx").read_bytes() + b"\0")


def of_a_newer_schema(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 99}))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (None, "teacher: got none, expected the folder of a bundle, such as models/NAME/1"),
        ("/nowhere", "teacher: got /nowhere, expected the folder of a bundle"),
        ("above", "expected the folder of a bundle, such as models/NAME/1"),
        (changed, "encoder.onnx: sha256: got "),
        (of_a_newer_schema, "schema_version: got 99"),
        (AudioInput(8000, 100), "a bundle of audio, expected one of images"),
        (ImageInput(12, 12, 3), "whose images have 3 channels, expected 1, as the data has"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_sentence_before_any_work(
    broken: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = broken if isinstance(broken, AudioInput | ImageInput) else ImageInput(12, 12, 1)
    folder = write_teacher(tmp_path / "models", row)
    if callable(broken):
        broken(folder)
    named = {"above": folder.parent, "/nowhere": "/nowhere"}.get(broken, folder) if isinstance(broken, str) else folder
    assert main(["distill", "--data", "digits", *(["--teacher", str(named)] if broken else [])]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: teacher: ")
    assert message in said
    assert not (tmp_path / "runs").exists()
