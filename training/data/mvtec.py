"""The layout of MVTec AD, which many data sets of parts have: `mvtec:PATH`.

    train/good/*.png                        usual ones: they train and calibrate
    test/good/*.png                         more usual ones, for test; where there are none a tenth of the others is
    test/<kind>/*.png                       faulty ones: `latentserve ood --against mvtec:PATH`
    ground_truth/<kind>/<name>_mask.png     which pixels are at fault

Source: Bergmann et al., MVTec AD, CVPR 2019; the layout is that of the archive.
"""

from __future__ import annotations

from pathlib import Path

from latentserve.images import SUFFIXES
from training.data.decoding import MIN_IMAGES
from training.data.errors import DataError
from training.data.files import files_in
from training.data.folder import read_files, with_names
from training.data.given_splits import with_test
from training.data.grouping import GroupBy
from training.data.rows import Data, Rows, three_splits
from training.data.shares import Calibration
from training.data.sizes import Size

GOOD = "good"
TRAIN, TEST, MASKS = f"train/{GOOD}", "test", "ground_truth"


def check(path: str) -> Path:
    """The folder.

    Raises:
        DataError: it has no in-distribution images where the layout has them.
    """
    folder = Path(path).expanduser()
    if not path or not (folder / TRAIN).is_dir():
        raise DataError(f"mvtec: got {path!r}, expected a folder with good images in {TRAIN} (mvtec:PATH)")
    return folder


def load(
    path: str, size: Size, seed: int, group_by: GroupBy | None = None, calibration: Calibration | None = None
) -> Data:
    """Rows of train/good in two splits or three, and of test/good.

    Raises:
        DataError: not the layout, or too few images.
    """
    folder = check(path)
    further = folder / TEST / GOOD
    tests = further.is_dir() and bool(files_in(further, SUFFIXES))
    rows = usual(path, size, group_by)
    data = three_splits(f"mvtec:{path}", rows, seed, in_place=True, calibration=calibration, tests=not tests)
    return with_test(data, _read(folder, further, size, at_least=1), f"{TEST}/{GOOD}", seed) if tests else data


def usual(path: str, size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES) -> Rows:
    """All rows of train/good.

    Raises:
        DataError: not the layout, or fewer images.
    """
    folder = check(path)
    return _read(folder, folder / TRAIN, size, group_by, at_least)


def faulty(path: str, size: Size, at_least: int = 1) -> Rows:
    """All rows of test/<kind> but for the good ones, named from `test` on, their kinds as classes.

    Raises:
        DataError: not the layout, or fewer images.
    """
    folder = check(path) / TEST
    if not folder.is_dir():
        raise DataError(f"mvtec: got {path!r}, expected faulty images in {TEST}/<kind>")
    found = [file for file in files_in(folder, SUFFIXES) if file.relative_to(folder).parts[0] != GOOD]
    rows, kept = read_files("mvtec", folder, found, size, at_least=at_least)
    return with_names(rows, [file.relative_to(folder) for file in kept])


def _read(folder: Path, within: Path, size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES) -> Rows:
    rows, kept = read_files("mvtec", within, files_in(within, SUFFIXES), size, group_by, at_least)
    return with_names(rows, [file.relative_to(folder) for file in kept])
