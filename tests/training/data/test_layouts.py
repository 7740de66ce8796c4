"""MVTec AD's layout, and lists in CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import DataError, load_data
from training.data.listed import entries
from training.data.loading import every_row, usual_rows
from training.data.shares import Calibration


def save(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)).save(file)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for i in range(30):
        save(tmp_path / "train/good" / f"{i:03}.png", i)
    for i in range(6):
        save(tmp_path / "test/good" / f"{i:03}.png", 100 + i)
    for i in range(4):
        save(tmp_path / "test/hole" / f"{i:03}.png", 200 + i)
    for i in range(3):
        save(tmp_path / "test/cut" / f"{i:03}.png", 300 + i)
    return tmp_path


def test_usual_images_train_and_calibrate_and_those_of_the_test_folder_test(parts: Path) -> None:
    data = load_data(f"mvtec:{parts}", 16, calibration=Calibration(0.5))
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [15, 15, 6]
    assert data.test.names_N is not None
    assert sorted(data.test.names_N)[0] == "test/good/000.png"
    assert data.train.names_N is not None
    assert all(str(name).startswith("train/good/") for name in data.train.names_N)
    assert len(usual_rows(f"mvtec:{parts}", 16)) == 30


def test_where_the_layout_has_no_good_ones_to_test_a_tenth_of_the_others_is(parts: Path) -> None:
    for file in (parts / "test/good").iterdir():
        file.unlink()
    assert [len(r) for r in (load_data(f"mvtec:{parts}", 16).train, load_data(f"mvtec:{parts}", 16).test)] == [24, 3]


def test_faulty_ones_are_what_a_model_is_held_against_by_kind(parts: Path) -> None:
    rows = every_row(f"mvtec:{parts}", 16)
    assert rows is not None
    assert rows.label_names == ("cut", "hole")
    assert rows.labels_N is not None
    assert np.bincount(rows.labels_N).tolist() == [3, 4]


def test_another_layout_is_said(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    with pytest.raises(DataError, match="expected a folder with good images in train/good"):
        load_data(f"mvtec:{tmp_path}", 16)
    with pytest.raises(DataError, match=r"mvtec: got 'nowhere', expected a folder of good images in train/good"):
        load_data("mvtec:nowhere", 16)


def test_a_list_says_which_rows_are_for_what(parts: Path) -> None:
    lines = ["path,split,label"]
    lines += [f"train/good/{i:03}.png,{'calibration' if i < 8 else 'train'},good" for i in range(30)]
    lines += [f"test/good/{i:03}.png,test,good" for i in range(6)]
    (parts / "list.csv").write_text("\n".join(lines))
    data = load_data(f"csv:{parts / 'list.csv'}", 16, calibration=Calibration())
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [22, 8, 6]
    with pytest.raises(DataError, match=r"list.csv says which rows calibrate"):
        load_data(f"csv:{parts / 'list.csv'}", 16, calibration=Calibration(0.2))


def test_a_list_without_splits_is_drawn_as_a_folder_is_and_has_classes(parts: Path) -> None:
    lines = ["label,path", *(f"{'odd' if i % 2 else 'even'},train/good/{i:03}.png" for i in range(30))]
    (parts / "list.csv").write_text("\ufeff" + "\r\n".join(lines))
    data = load_data(f"csv:{parts / 'list.csv'}", 16)
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [24, 3, 3]
    rows = every_row(f"csv:{parts / 'list.csv'}", 16)
    assert rows is not None
    assert rows.label_names == ("even", "odd")
    assert rows.labels_N is not None
    assert rows.labels_N.tolist() == [i % 2 for i in range(30)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.png,x", "got 'file,label' in its first line, expected columns of path,label,mask,split"),
        ("path,colour\na.png,x", "got 'colour' in its first line"),
        ("path\ntrain/good/000.png\nnot/there.png", "line 3: path: there is no file 'not/there.png'"),
        ("path,mask\ntrain/good/000.png,no.png", "line 2: mask: there is no file 'no.png'"),
        ("path,split\ntrain/good/000.png,dev", "line 2: split: got 'dev', expected one of train, calibration, test"),
        ("path\ntrain/good/000.png,x", "line 2: got more values than columns"),
        ("path,label\n,x", "line 2: got no path"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(parts: Path, text: str, said: str) -> None:
    (parts / "list.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        entries(str(parts / "list.csv"))
    with pytest.raises(DataError, match="csv: got 'nothing.csv', expected a list of images"):
        load_data("csv:nothing.csv")
