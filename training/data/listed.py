"""Images that a list in CSV names: `csv:FILE`.

    path,label,mask,split
    a/001.png,,,train
    b/007.png,scratch,masks/007.png,test

`path` must be there, the others may; paths are relative to the file. A row with a `mask` is faulty: it is in no split,
but what `latentserve ood --against csv:FILE` takes, with its label as its kind. `split` of the others is train,
calibration or test; where it is not said of any row the splits are drawn, as of a folder.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.decoding import MIN_IMAGES
from training.data.errors import DataError
from training.data.folder import read_files
from training.data.given_splits import with_calibration, with_test
from training.data.grouping import GroupBy
from training.data.rows import Data, Rows, three_splits
from training.data.shards import labels
from training.data.shares import Calibration
from training.data.sizes import Size

COLUMNS = ("path", "label", "mask", "split")
SPLITS = ("train", "calibration", "test")


class Entry(NamedTuple):
    """A line of the list.

    Attributes:
        path: as it is written.
        label: empty if it has none.
        mask: likewise.
        split: likewise.
    """

    path: str
    label: str = ""
    mask: str = ""
    split: str = ""


def entries(file: str) -> list[Entry]:
    """The lines of a list.

    Raises:
        DataError: no such file, a column that is not known, or a line that names a file that is not there.
    """
    path = Path(file).expanduser()
    if not file or not path.is_file():
        raise DataError(f"csv: got {file!r}, expected a list of images with the columns {','.join(COLUMNS)} (csv:FILE)")
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            columns = [name.strip() for name in reader.fieldnames or ()]
            _check_columns(path, columns)
            reader.fieldnames = columns
            return [_entry(path, reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"csv: {path} cannot be read ({error}), expected lines of text in UTF-8") from error


def _check_columns(file: Path, columns: list[str]) -> None:
    if "path" not in columns or (unknown := [name for name in columns if name not in COLUMNS]):
        got = ",".join(columns) if "path" not in columns else unknown[0]
        raise DataError(f"csv: {file}: got {got!r} in its first line, expected columns of {','.join(COLUMNS)}")


def _entry(file: Path, number: int, line: dict[str, str | list[str] | None]) -> Entry:
    where = f"csv: {file}, line {number}"
    if None in line:
        raise DataError(f"{where}: got more values than columns; put a value with commas into quotes")
    said = {name: (value or "").strip() for name, value in line.items() if not isinstance(value, list)}
    found = Entry(**said)
    if not found.path:
        raise DataError(f"{where}: got no path, expected the file of an image")
    for kind in ("path", "mask"):
        if (name := said.get(kind)) and not (file.parent / name).is_file():
            raise DataError(f"{where}: {kind}: there is no file {name!r}; paths are relative to the list")
    if found.split and found.split not in SPLITS:
        raise DataError(f"{where}: split: got {found.split!r}, expected one of {', '.join(SPLITS)}")
    return found


def load(
    file: str, size: Size, seed: int, group_by: GroupBy | None = None, calibration: Calibration | None = None
) -> Data:
    """The splits that the list gives; what it does not give is drawn from its training rows.

    Raises:
        DataError: no such list, or it cannot be what it is.
    """
    listed, spec = [entry for entry in entries(file) if not entry.mask], f"csv:{file}"
    by_split = {split: [entry for entry in listed if entry.split == split] for split in SPLITS}
    if not any(by_split.values()):
        rows = _read(file, listed, size, group_by)
        return three_splits(spec, rows, seed, in_place=True, calibration=calibration)
    if lost := [entry for entry in listed if not entry.split]:
        raise DataError(f"csv: {file}: split: got none of {lost[0].path!r}, expected one of each row, or of no row")
    calibration, tests = _given(file, by_split, calibration), not by_split["test"]
    rows = _read(file, by_split["train"], size, group_by)
    data = three_splits(spec, rows, seed, in_place=True, calibration=calibration, tests=tests)
    if by_split["test"]:
        data = with_test(data, _read(file, by_split["test"], size, at_least=1), spec, seed)
    if by_split["calibration"]:
        data = with_calibration(data, _read(file, by_split["calibration"], size, at_least=1), spec, seed)
    return data


def _given(file: str, by_split: dict[str, list[Entry]], calibration: Calibration | None) -> Calibration | None:
    """Of a list that says which rows calibrate none is drawn."""
    if not by_split["calibration"]:
        return calibration
    calibration = calibration or Calibration()
    if calibration.share is not None or calibration.data is not None:
        raise DataError(
            f"calibration_share: got a share or other data, expected none: {file} says which rows calibrate"
        )
    return replace(calibration, data=f"csv:{file}", crosses=False)


def every(file: str, size: Size, at_least: int = MIN_IMAGES) -> Rows:
    """All rows of a list, or the faulty ones where some are.

    Raises:
        DataError: as `load`, of fewer than `at_least` rows.
    """
    listed = entries(file)
    return _read(file, [entry for entry in listed if entry.mask] or listed, size, at_least=at_least)


def _read(
    file: str, listed: list[Entry], size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES
) -> Rows:
    folder = Path(file).expanduser().parent
    places = {folder / entry.path: entry for entry in listed}
    rows, kept = read_files("csv", folder, [folder / entry.path for entry in listed], size, group_by, at_least)
    said = [places[path] for path in kept]
    texts = [entry.label or None for entry in said]
    numbers = labels(texts)
    named = numbers is not None and not all(text.isdigit() for text in texts if text)
    names = tuple(sorted({text for text in texts if text})) if named else ()
    names_N = np.array([entry.path for entry in said], np.object_)
    return replace(rows, labels_N=numbers, names_N=names_N, label_names=names)
