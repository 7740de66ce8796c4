from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentserve.cli.sinks import sink
from latentserve.errors import InvalidInput, Unsupported

COLUMNS = ("item", "error")
ROWS = [np.array([0.5, 1.5], np.float32), None, np.array([2.5, -1.0], np.float32)]


def written(path: Path | None, form: str | None = None, tensor: str = "embedding") -> None:
    with sink(path, form, COLUMNS, tensor) as out:
        for number, row in enumerate(ROWS):
            out.write({"item": f"{number}.png", "error": None if row is not None else "got no image"}, row)


def test_an_array_has_a_row_for_each_item_and_nan_where_one_failed(tmp_path: Path) -> None:
    written(tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(found, np.array([[0.5, 1.5], [np.nan, np.nan], [2.5, -1.0]], np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_an_array_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = sink(tmp_path / "out.npy", None, COLUMNS, "embedding").__enter__()
    out.write({"item": "0"}, ROWS[0])
    out.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not list(tmp_path.iterdir())


def test_csv_has_a_column_for_each_number(tmp_path: Path) -> None:
    written(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["item", "error", "0", "1"]
    assert found[2] == ["1.png", "got no image", "", ""]
    assert [float(cell) for cell in found[3][2:]] == [2.5, -1.0]


def test_csv_that_begins_with_a_failure_still_has_every_line(tmp_path: Path) -> None:
    with sink(tmp_path / "out.csv", None, COLUMNS, "embedding") as out:
        out.write({"item": "a", "error": "broken"}, None)
        out.write({"item": "b", "error": None}, ROWS[0])
    assert (tmp_path / "out.csv").read_text().splitlines() == ["item,error,0,1", "a,broken,,", "b,,0.5,1.5"]
    with sink(tmp_path / "all.csv", None, COLUMNS, "embedding") as out:
        out.write({"item": "a", "error": "broken"}, None)
    assert (tmp_path / "all.csv").read_text().splitlines() == ["item,error", "a,broken"]


def test_json_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with sink(path, None, COLUMNS, "embedding") as out:
        out.write({"item": "é.png", "error": None}, ROWS[0])
        assert json.loads(path.read_text()) == {"item": "é.png", "embedding": [0.5, 1.5]}


def test_pictures_of_one_name_do_not_hide_each_other(tmp_path: Path) -> None:
    picture = np.zeros((2, 2, 1), np.float32)
    picture[0, 0] = 1
    with sink(tmp_path / "out", None, COLUMNS, "reconstruction") as out:
        for name in ("a/x.png", "b/x.jpg", "x-2.png", "rows.npy[3]"):
            out.write({"item": name}, picture)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rows-3.png", "x-2-2.png", "x-2.png", "x.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "x.png")), [[255, 0], [0, 0]])


def test_what_is_no_picture_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(Unsupported, match=r"rows of shape \[8\] are no pictures"),
        sink(tmp_path / "out", None, COLUMNS, "reconstruction") as out,
    ):
        out.write({"item": "a"}, np.zeros(8, np.float32))


def test_a_table_says_what_is_flagged_and_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with sink(None, None, ("item", "p_value", "flagged", "error")) as out:
        out.write({"item": "a.png", "p_value": 0.001, "flagged": True, "error": None}, None)
        out.write({"item": "b.png", "p_value": 0.5, "flagged": False, "error": None}, None)
        out.write({"item": "c.png", "p_value": None, "flagged": None, "error": "no image"}, None)
    first, second, third = capsys.readouterr().out.splitlines()
    assert "FLAGGED" in first
    assert "a.png" in first
    assert "FLAGGED" not in second
    assert third == "c.png  error: no image"


def test_formats_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    written(None, "csv")
    assert capsys.readouterr().out.splitlines()[0] == "item,error,0,1"
    written(None, "jsonl")
    assert json.loads(capsys.readouterr().out.splitlines()[1]) == {"item": "1.png", "error": "got no image"}


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("out.txt", "embedding", "expected a file that ends in one of .csv .jsonl .ndjson .npy"),
        ("out.npy", "", "expected a file that ends in one of .csv .jsonl .ndjson"),
        ("nowhere/out.csv", "", "expected a file in a folder that exists"),
        ("there.csv", "", "which exists, expected a new file, or --force"),
        ("out.txt", "reconstruction", "or a folder for pictures"),
    ],
)
def test_where_nothing_can_be_written_is_said_first(tmp_path: Path, name: str, tensor: str, said: str) -> None:
    (tmp_path / "there.csv").write_text("kept")
    with pytest.raises(InvalidInput, match=said):
        sink(tmp_path / name, None, COLUMNS, tensor)
    assert (tmp_path / "there.csv").read_text() == "kept"


def test_force_writes_over(tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("old")
    with sink(tmp_path / "there.csv", None, COLUMNS, force=True) as out:
        out.write({"item": "a", "error": None}, None)
    assert (tmp_path / "there.csv").read_text() == "item,error\na,\n"
