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
from training.data.shares import Calibration
from training.data.sizes import Size


def load(
    path: str, size: Size, seed: int, group_by: GroupBy | None = None, calibration: Calibration | None = None
) -> Data:
    """80 % training rows, 10 % for calibration or as `calibration` says, 10 % for test, drawn by the seed.

    Raises:
        DataError: no such folder, too few images in it, or what to group by says nothing about them.
    """
    return three_splits(f"folder:{path}", read(path, size, group_by), seed, in_place=True, calibration=calibration)


def read(path: str, size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES) -> Rows:
    """All images of a folder.

    Raises:
        DataError: as `load`, of fewer than `at_least` images.
    """
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise DataError(f"folder: got {path!r}, expected a folder of JPEG or PNG images (folder:PATH)")
    files = files_in(folder, SUFFIXES)
    rows, kept = read_files("folder", folder, files, size, group_by, at_least)
    named = [file.relative_to(folder) for file in kept]
    return with_names(rows, named)


def read_files(
    kind: str, folder: Path, files: list[Path], size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES
) -> tuple[Rows, list[Path]]:
    """The images that can be decoded, and their files.

    Args:
        kind: of the data spec.
        folder: that they are of.
        files: in the order of the rows.
        size: of a row.
        group_by: which of them belong together.
        at_least: so many.

    Raises:
        DataError: fewer can be decoded, or what to group by says nothing about them.
    """
    if len(files) < at_least:
        raise DataError(f"{kind}: got {len(files)} images under {folder}, expected at least {at_least}")
    units_N = group_by.of_files(files) if group_by else None
    Seen(kind).every(files).say(size)
    reading = Reading(kind, f"{kind}:{folder.resolve()}", size.input(CHANNELS))
    decoded = decode_all(reading, [_file(file) for file in files])
    images_NHWC, rows = readable(kind, decoded, at_least)
    kept_N = units_N[rows] if units_N is not None else group_by.of_rows(images_NHWC) if group_by else None
    return Rows(images_NHWC, units_N=kept_N), [files[row] for row in rows]


def _file(path: Path) -> File:
    def place() -> Place:
        found = path.stat()
        return Place(str(path), found.st_size, found.st_mtime_ns)

    return File(records.printable(str(path)), path.read_bytes, place)


def with_names(rows: Rows, files: list[Path]) -> Rows:
    """The rows with the names of their files, and with their classes: see `folder_labels`."""
    names_N, labels_N = np.array([str(file) for file in files], np.object_), folder_labels(files)
    classes = () if labels_N is None else tuple(sorted({file.parts[0] for file in files}))
    return replace(rows, names_N=names_N, labels_N=labels_N, label_names=classes)


def folder_labels(files: list[Path]) -> NDArray[np.int64] | None:
    """The first folder of each file, counted in the order of their names; None unless there are two or more."""
    if any(len(file.parts) < 2 for file in files):
        return None
    names = sorted({file.parts[0] for file in files})
    return np.array([names.index(file.parts[0]) for file in files], np.int64) if len(names) > 1 else None
