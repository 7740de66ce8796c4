"""Which pixels of an image are at fault: masks that lie beside images, brought to the size of the model's.

A mask is an image of the size of the photograph, 0 where nothing is wrong. It goes through the model's own rule of
resizing by the nearest pixel, so that it meets what the model saw.

    folder:PATH   --masks FOLDER, in which a mask has the stem of its image, or the stem and _mask, any suffix; in the
                  same subfolder, or in one that is called as the image's folder, or anywhere if no other has that stem
    mvtec:PATH    ground_truth/<kind>/<name>_mask.png, unless --masks says otherwise
    csv:FILE      the column mask

Shape legend: N images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentserve.images import FORMATS, SUFFIXES, ImageError, upright_size
from latentserve.inputs import ImageInput
from latentserve.resizing import resized
from training.data.errors import DataError
from training.data.files import files_in
from training.data.listed import entries
from training.data.mvtec import MASKS, TEST
from training.data.rows import Rows
from training.data.subset import Subset

ENDING = "_mask"
"""Of the stems of MVTec's masks."""


def has_masks(spec: str, folder: Path | None) -> bool:
    """Whether there are masks for a set: where a folder is named, or the set's own layout has some.

    Raises:
        DataError: what is named is no folder.
    """
    kind, place = _place(spec)
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"masks: got {folder}, expected a folder of masks")
        return kind in ("folder", "mvtec")
    if kind == "mvtec":
        return (Path(place).expanduser() / MASKS).is_dir()
    return kind == "csv" and any(entry.mask for entry in entries(place))


def masks_of(spec: str, rows: Rows, folder: Path | None, given: ImageInput) -> tuple[NDArray[np.bool_], list[int]]:
    """Masks [N, H, W], and the rows that have one; of the others it is empty.

    Args:
        spec: of the set.
        rows: some of it, with names.
        folder: of masks; None: as the set's layout has them.
        given: of the model.

    Raises:
        DataError: no image has a mask, or one has another size than its image or cannot be read.
    """
    assert rows.names_N is not None  # of all kinds that `has_masks` takes
    root, found = _root_and_masks(spec, rows.names_N.tolist(), folder)
    out, known = np.zeros((len(rows), given.height, given.width), np.bool_), list[int]()
    for row, name in enumerate(rows.names_N.tolist()):
        if (mask := found.get(name)) is not None:
            out[row] = read_mask(mask, root / name, given)
            known.append(row)
    if not known:
        where = folder or spec
        of_what = f"{len(rows)} images, as {rows.names_N[0]}"
        raise DataError(f"masks: got none in {where} for {of_what}, expected files of the same stems")
    return out, known


def read_mask(mask: Path, image: Path, given: ImageInput) -> NDArray[np.bool_]:
    """One mask at the size of the model's.

    Raises:
        DataError: it has another size than its image, or cannot be read.
    """
    try:
        wanted = upright_size(image)
        with Image.open(mask, formats=FORMATS) as opened:
            pixels = np.asarray(opened.convert("RGB")).any(axis=2)
    except (ImageError, OSError) as error:
        raise DataError(f"masks: {mask} cannot be read ({error})") from error
    if pixels.shape != wanted:
        got, expected = (f"{height} x {width}" for height, width in (pixels.shape, wanted))
        raise DataError(f"masks: {mask} is {got} (height x width), expected {expected} as its image {image}")
    small = resized(Image.fromarray(pixels.astype(np.uint8)), given, Image.Resampling.NEAREST)
    return np.asarray(small, np.bool_)


def _place(spec: str) -> tuple[str, str]:
    subset = Subset.parse(spec)
    kind, _, place = (spec if subset is None else subset.base).partition(":")
    return kind, place


def _root_and_masks(spec: str, names: list[str], folder: Path | None) -> tuple[Path, Mapping[str, Path]]:
    """The folder that names are relative to, and the masks by the names of their images."""
    kind, place = _place(spec)
    path = Path(place).expanduser()
    if kind == "csv":
        masks = {entry.path: path.parent / entry.mask for entry in entries(place) if entry.mask}
        return path.parent, masks
    root = path / TEST if kind == "mvtec" else path
    beside = _Beside(path / MASKS if folder is None else folder, root.resolve().name)
    return root, {name: mask for name in names if (mask := beside.of(name)) is not None}


class _Beside:
    """The masks of a folder, by what their images are called."""

    def __init__(self, folder: Path, root: str) -> None:
        self._root = root
        self._by_place = dict[tuple[str, str], Path]()
        by_stem = dict[str, list[Path]]()
        for file in files_in(folder, SUFFIXES):
            parent = file.relative_to(folder).parent.as_posix()
            for stem in {file.stem, file.stem.removesuffix(ENDING)}:
                self._by_place.setdefault((parent, stem), file)
                by_stem.setdefault(stem, []).append(file)
        self._alone = {stem: files[0] for stem, files in by_stem.items() if len(files) == 1}

    def of(self, name: str) -> Path | None:
        """The mask of an image, or None."""
        path = PurePosixPath(name)
        parents = path.parent.as_posix(), (PurePosixPath(self._root) / path.parent).as_posix()
        places = (self._by_place.get((parent, path.stem)) for parent in parents)
        return next((found for found in places if found is not None), self._alone.get(path.stem))
