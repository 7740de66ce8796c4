"""How many rows calibrate, and rows that calibrate from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import DataError, load_data
from training.data.rows import Data
from training.data.shares import Calibration

OWN = Calibration()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`all` has 150 images, `few` 40, `other` 30 more and a copy of one of `all`."""
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for name, num in (("all", 150), ("few", 40), ("other", 30)):
        (root / name).mkdir()
        for i in range(num):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(root / name / f"{i:03}.png")
    shutil.copy(root / "all" / "001.png", root / "other" / "copy.png")
    return root


def sizes(data: Data) -> list[int]:
    return [len(rows) for rows in (data.train, data.calibration, data.test)]


@pytest.mark.parametrize(
    ("calibration", "num_units", "num"),
    [
        (OWN, 1000, 100),  # a tenth is enough
        (OWN, 190, 19),
        (OWN, 150, 19),
        (OWN, 38, 19),  # a half
        (OWN, 37, 3),  # more than a half would be needed: no scores, so that the rest trains
        (Calibration(alpha=0.01), 300, 99),
        (Calibration(alpha=0.1), 30, 9),
        (Calibration(0.3), 100, 30),
        (Calibration(0.8), 10, 8),
        (Calibration(0.01), 50, 1),
        (Calibration(data="folder:x"), 500, 0),
        (Calibration(crosses=True), 150, 0),
        (Calibration(crosses=True), 190, 19),
        (Calibration(0.2, crosses=True), 150, 30),
        (Calibration(alpha=0.001, crosses=True), 2001, 999),
    ],
)
def test_as_many_calibrate_as_the_level_needs(calibration: Calibration, num_units: int, num: int) -> None:
    assert calibration.num_of(num_units, max(1, num_units // 10)) == num


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (0.9, 1), (0.3, 3)])
def test_so_many_rows_are_the_fewest_that_reach_a_level(alpha: float, needed: int) -> None:
    assert Calibration(alpha=alpha).needed == needed
    assert 1 / (needed + 1) <= alpha * (1 + 1e-9)
    assert needed == 1 or 1 / needed > alpha * (1 + 1e-9)


def test_the_splits_and_the_smallest_p_value_are_said_in_a_line(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, calibration: Calibration | None) -> str:
        load_data(f"folder:{folders / name}", 16, calibration=calibration)
        return capsys.readouterr().err.splitlines()[-1].replace(f"{folders}/", "")

    assert said("all", OWN) == (
        "folder:all: 150 images: 116 to train, 19 to calibrate (smallest p-value 0.05), 15 to test"
    )
    assert said("all", Calibration(0.5)).endswith("60 to train, 75 to calibrate (smallest p-value 0.013), 15 to test")
    assert said("all", Calibration(crosses=True)).endswith(
        "135 to train, all of them to calibrate crosswise (smallest p-value 0.0074), 15 to test"
    )
    assert said("few", Calibration(alpha=0.01)).endswith(
        "4 to calibrate (smallest p-value 0.2: no scores at alpha 0.01, which takes 198 images), 4 to test"
    )
    assert said("few", Calibration(0.1)).endswith("no scores at alpha 0.05, which takes 19 to calibrate), 4 to test")
    assert "to train" not in said("all", None)


def test_runs_that_are_older_than_the_choice_have_a_tenth(folders: Path) -> None:
    assert sizes(load_data(f"folder:{folders / 'all'}", 16)) == [120, 15, 15]


def test_rows_from_elsewhere_calibrate_and_no_row_of_the_set_nor_a_twin(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"folder:{folders / 'other'}"
    data = load_data(f"folder:{folders / 'all'}", 16, calibration=Calibration(data=elsewhere))
    assert sizes(data) == [135, 30, 15]
    assert "1 of 31 rows are left out" in capsys.readouterr().err
    own = {row.tobytes() for rows in (data.train, data.test) for row in rows.values}
    assert not own & {row.tobytes() for row in data.calibration.values}
    with pytest.raises(DataError, match="that all equal others of the data, expected new ones"):
        load_data(f"folder:{folders / 'all'}", 16, calibration=Calibration(data=f"folder:{folders / 'all'}"))


def test_what_cannot_be_is_said(folders: Path) -> None:
    for share in (0, -0.1, 0.9, 2):
        with pytest.raises(DataError, match=rf"calibration_share: got {share}, expected above 0 and at most 0.8"):
            Calibration(share)
    with pytest.raises(DataError, match=r"calibration_share: got 0.2 beside calibration_data, expected one"):
        Calibration(0.2, data="folder:x")
    with pytest.raises(DataError, match=r"calibration_share: got 0.2, expected none: digits brings its own splits"):
        load_data("digits", calibration=Calibration(0.2))
    with pytest.raises(DataError, match="calibration_data: got 'digits', expected rows of your own"):
        load_data(f"folder:{folders / 'all'}", 16, calibration=Calibration(data="digits"))
    with pytest.raises(DataError, match="calibration_data: got 'audio:x', expected rows of the kind of folder:"):
        load_data(f"folder:{folders / 'all'}", 16, calibration=Calibration(data="audio:x"))
