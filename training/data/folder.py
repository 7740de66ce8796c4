"""A user's own folder of JPEG, PNG, WebP, BMP and TIFF images, read at any depth.

If all images lie in subfolders, the first folder's name is the label (only ever used to report figures).
A file that cannot be decoded is skipped, counted and named (`training.data.decoding`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentserve import records
from latentserve.images import SUFFIXES
from training.data.decoding import CHANNELS, MIN_IMAGES, Reading, decode_all, readable
from training.data.digests import Place
from training.data.files import files_in
from training.data.grouping import GroupBy
from training.data.lazy import File
from training.data.rows import Data, DataError, Rows, three_splits
from training.data.seen import Seen
from training.data.sizes import Size


def load(path: str, size: Size, seed: int, group_by: GroupBy | None = None) -> Data:
    """80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed.

    Raises:
        DataError: no such folder, too few images in it, or what to group by says nothing about them.
    """
    return three_splits(f"folder:{path}", read(path, size, group_by), seed, in_place=True)


def read(path: str, size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES) -> Rows:
    """All images of a folder.

    Raises:
        DataError: as `load`, of fewer than `at_least` images.
    """
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise DataError(f"folder: got {path!r}, expected a folder of JPEG or PNG images (folder:PATH)")
    files = files_in(folder, SUFFIXES)
    if len(files) < at_least:
        raise DataError(f"folder: got {len(files)} images under {folder}, expected at least {at_least}")
    units_N = group_by.of_files(files) if group_by else None
    Seen("folder").every(files).say(size)
    reading = Reading("folder", f"folder:{folder.resolve()}", size.input(CHANNELS))
    decoded = decode_all(reading, [_file(file) for file in files])
    images_NHWC, rows = readable("folder", decoded, at_least)
    named = [files[row].relative_to(folder) for row in rows]
    kept_N = units_N[rows] if units_N is not None else group_by.of_rows(images_NHWC) if group_by else None
    return with_names(Rows(images_NHWC, folder_labels(named), units_N=kept_N), named)


def _file(path: Path) -> File:
    def place() -> Place:
        found = path.stat()
        return Place(str(path), found.st_size, found.st_mtime_ns)

    return File(records.printable(str(path)), path.read_bytes, place)


def with_names(rows: Rows, files: list[Path]) -> Rows:
    """The rows with the names of their files and of their classes, whose labels are `folder_labels`."""
    names_N = np.array([str(file) for file in files], np.object_)
    classes = () if rows.labels_N is None else tuple(sorted({file.parts[0] for file in files}))
    return replace(rows, names_N=names_N, label_names=classes)


def folder_labels(files: list[Path]) -> NDArray[np.int64] | None:
    """The first folder of each file, counted in the order of their names; None unless there are two or more."""
    if any(len(file.parts) < 2 for file in files):
        return None
    names = sorted({file.parts[0] for file in files})
    return np.array([names.index(file.parts[0]) for file in files], np.int64) if len(names) > 1 else None
