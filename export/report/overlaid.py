"""Rows of the report with their anomaly maps over them, where the bundle has a map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from export.graphs import GraphRunner
from latentserve import bundle
from latentserve.bundle import Manifest
from latentserve.conformal import smallest_flagged
from latentserve.inputs import ANOMALY_MAP, ImageInput
from latentserve.overlay import drawn, opened
from latentserve.placing import Box, placed
from training.data.rows import Values

Overlaid = Callable[[int], NDArray[np.uint8]]
"""Of a row by its number: uint8 [height, width, 3]."""


def overlaid(manifest: Manifest, folder: Path, runner: GraphRunner, values: Values) -> Overlaid | None:
    """Draws rows with heat where they are out of distribution, and boxes around what is flagged at the bundle's level.

    Args:
        manifest: of the bundle.
        folder: of it, with its calibration.
        runner: of all graphs.
        values: rows.

    Returns:
        None if there is no map, or not of images.
    """
    given = manifest.input
    if not manifest.map_detector or not isinstance(given, ImageInput):
        return None
    calibration = bundle.load_calibration(folder, manifest)[manifest.map_detector]
    threshold = smallest_flagged(calibration, manifest.default_alpha)
    where, whole = placed(given, given.height, given.width), runner.with_patches()

    def of(row: int) -> NDArray[np.uint8]:
        (map_hw,) = whole.run(np.asarray(values[row : row + 1]))[ANOMALY_MAP]
        boxes = boxed(~(map_hw < threshold), given.height, given.width)
        return np.asarray(drawn(opened(np.asarray(values[row])), map_hw, threshold, where, boxes))

    return of


def boxed(flagged_hw: NDArray[np.bool_], height: int, width: int) -> list[Box]:
    """Around flagged places that touch, by side or corner, in an image of so many pixels: as the service's regions."""
    places, _ = label(flagged_hw, structure=np.ones((3, 3)))
    rows, columns = flagged_hw.shape
    found = list[Box]()
    for of_rows, of_columns in find_objects(places):
        y, bottom = of_rows.start * height // rows, -(-of_rows.stop * height // rows)
        x, right = of_columns.start * width // columns, -(-of_columns.stop * width // columns)
        found.append(Box(y, x, bottom - y, right - x))
    return found
