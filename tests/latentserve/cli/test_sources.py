from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latentserve.cli.sources import sources
from latentserve.errors import InvalidInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.wav", "sub/notes.txt", ".hidden/d.png", ".e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    np.save(tmp_path / "rows.npy", np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2))
    return tmp_path


def names(inputs: list[str], folder: Path) -> list[str]:
    items, total = sources(inputs)
    found = [one.name.removeprefix(f"{folder}/") for one in items]
    assert total in (None, len(found))
    return found


def test_a_folder_is_its_images_and_sounds_at_any_depth_without_hidden_ones(folder: Path) -> None:
    assert names([str(folder)], folder) == ["a.JPG", "b.png", "sub/c.wav"]


def test_a_pattern_is_what_it_matches_and_inputs_keep_their_order(folder: Path) -> None:
    assert names([f"{folder}/sub/*.wav", f"{folder}/b.png", f"{folder}/*.JPG"], folder) == [
        "sub/c.wav",
        "b.png",
        "a.JPG",
    ]


def test_an_array_is_its_rows(folder: Path) -> None:
    items, total = sources([str(folder / "rows.npy")])
    found = list(items)
    assert total == 3
    assert [one.name for one in found] == [f"{folder}/rows.npy[{number}]" for number in range(3)]
    np.testing.assert_array_equal(found[1].item, np.arange(8, 16, dtype=np.uint8).reshape(2, 2, 2))


def test_a_file_that_is_named_is_taken_whatever_its_ending(folder: Path) -> None:
    assert names([str(folder / "sub" / "notes.txt")], folder) == ["sub/notes.txt"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_standard_input_names_files(folder: Path, monkeypatch: pytest.MonkeyPatch, newline: str) -> None:
    text = newline.join([str(folder / "b.png"), "", str(folder / "rows.npy"), str(folder / "a.JPG")])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(text.encode()))))
    expected = ["b.png", "rows.npy[0]", "rows.npy[1]", "rows.npy[2]", "a.JPG"]
    assert names(["-"], folder) == expected


def test_standard_input_may_be_an_array(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BufferedReader(io.BytesIO((folder / "rows.npy").read_bytes()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert names(["-"], folder) == ["-[0]", "-[1]", "-[2]"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing.jpg", "inputs: got .*nothing.jpg', expected a file, a folder or a pattern that matches some"),
        ("*.gif", "expected a file, a folder or a pattern that matches some"),
        (".hidden/..", "a folder without images or sounds, expected some of"),
        ("broken.npy", "expected a .npy array"),
        ("scalar.npy", r"of shape \[\], expected rows"),
        ("none.npy", r"of shape \[0, 2\], expected rows"),
    ],
)
def test_what_names_nothing_is_said_before_anything_is_read(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / ".hidden").mkdir()
    if given == "broken.npy":
        (tmp_path / given).write_bytes(b"no array")
    if given == "scalar.npy":
        np.save(tmp_path / given, np.float32(1))
    if given == "none.npy":
        np.save(tmp_path / given, np.zeros((0, 2), np.uint8))
    for name in tmp_path.glob("*.npy") if given.startswith(".hidden") else ():
        name.unlink()
    with pytest.raises(InvalidInput, match=said):
        sources([str(tmp_path / given)])
