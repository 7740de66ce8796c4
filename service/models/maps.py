"""Anomaly maps to p-values, a threshold and regions, by the calibration of the detector that a map is of.

The detector's score of an image is the maximum of its map, so what its calibration says of a score it says of any
place: p-values and the threshold are family-wise over all places of an image, and no other calibration is needed.

Shape legend: N rows, H x W places of a map, n calibration rows, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentserve.bundle import Detector, Manifest
from latentserve.conformal import adjustments, at_most, conditional_p_values, p_values, smallest_flagged
from latentserve.inputs import ImageInput
from service.models.decisions import Guarantee, check_calibration, level_of

MOST_REGIONS = 32
"""Of a row. A map of noise has hundreds, which nobody looks at."""
PLACES_AT_ONCE = 2**18
"""That are labelled together, in a few megabytes."""


@dataclass(frozen=True)
class MapOptions:
    """What a client asks of the maps: level and guarantee, as of scores."""

    alpha: float
    guarantee: Guarantee = "marginal"


@dataclass(frozen=True)
class Region:
    """Flagged places that touch.

    Attributes:
        row: number of the row.
        y: first row of pixels of the box, in the model's input.
        x: first column of pixels of it.
        height: pixels.
        width: pixels.
        area: share of the image that the places cover.
        peak: the largest value; infinite where one is no number.
        p_value: of the peak.
    """

    row: int
    y: int
    x: int
    height: int
    width: int
    area: float
    peak: float
    p_value: float


@dataclass(frozen=True)
class Maps:
    """Of n rows.

    Attributes:
        options: that they were made by.
        values: float32 [N, H, W].
        p_values: float64 [N, H, W], under the guarantee of the options.
        threshold: the smallest value that is flagged.
        flagged: bool [N]: whether any place of the row is.
        regions: by row, the largest first.
    """

    options: MapOptions
    values: NDArray[np.float32]
    p_values: NDArray[np.float64]
    threshold: float
    flagged: NDArray[np.bool_]
    regions: list[Region]


class MapPolicy:
    """Decides on the maps of one model.

    Args:
        manifest: of the bundle, which names the detector of its map.
        calibration: sorted scores by detector.
    """

    def __init__(self, manifest: Manifest, calibration: dict[str, NDArray[np.float32]]) -> None:
        self._manifest = manifest
        self.detector: Detector = next(one for one in manifest.detectors if one.name == manifest.map_detector)
        self._calibration = calibration[self.detector.name]
        given = manifest.input
        self._size = (given.height, given.width) if isinstance(given, ImageInput) else None

    def options(self, alpha: float | None, guarantee: Guarantee) -> MapOptions:
        """Checks what a client asks for, before anything is computed. The bundle's level is the default.

        Raises:
            Unsupported: the detector's calibration cannot give such a guarantee.
            InvalidInput: alpha is not between the smallest possible p-value and 1.
        """
        check_calibration(self._manifest, self.detector, guarantee)
        return MapOptions(level_of(alpha, self._manifest.default_alpha, self.detector, guarantee), guarantee)

    def decide(self, values_NHW: NDArray[np.float32], options: MapOptions) -> Maps:
        """p-values, threshold and regions. A value that is no number gets the smallest p-value, as a score does."""
        shape = values_NHW.shape
        p = p_values(values_NHW.ravel(), self._calibration)
        if options.guarantee == "conditional":
            one = self.detector
            p = conditional_p_values(p, one.num_calibration_rows, one.delta, one.adjustment)
        p_NHW = p.reshape(shape)
        flagged_NHW = at_most(p_NHW, options.alpha)
        return Maps(
            options=options,
            values=values_NHW,
            p_values=p_NHW,
            threshold=self._threshold(options),
            flagged=np.asarray(flagged_NHW.any(axis=(1, 2))),
            regions=regions(values_NHW, p_NHW, flagged_NHW, self._size or shape[1:]),
        )

    def _threshold(self, options: MapOptions) -> float:
        possible = None
        if options.guarantee == "conditional":
            num, one = len(self._calibration), self.detector
            possible = adjustments(num, one.delta, one.adjustment)[:num]
        return smallest_flagged(self._calibration, options.alpha, possible)


def regions(
    values_NHW: NDArray[np.float32],
    p_NHW: NDArray[np.float64],
    flagged_NHW: NDArray[np.bool_],
    size: tuple[int, ...],
) -> list[Region]:
    """Flagged places that touch, by row, the largest first; of equal ones that of the larger peak.

    Args:
        values_NHW: the maps.
        p_NHW: their p-values.
        flagged_NHW: which places are flagged.
        size: height and width of the image that the boxes are in.
    """
    places = np.nonzero(flagged_NHW)
    if not len(places[0]):
        return []
    label = labelled(flagged_NHW)[places]
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))  # of each region in this order
    row, y, x = (one[order] for one in places)
    value = values_NHW[places][order]
    value = np.where(np.isfinite(value), value, np.float32(np.inf))
    count_R = np.diff(starts, append=len(order))
    peak_R, p_R = np.maximum.reduceat(value, starts), np.minimum.reduceat(p_NHW[places][order], starts)
    top_R, left_R = np.minimum.reduceat(y, starts), np.minimum.reduceat(x, starts)
    bottom_R, right_R = np.maximum.reduceat(y, starts) + 1, np.maximum.reduceat(x, starts) + 1
    row_R = row[starts]
    num_places, found, kept = values_NHW[0].size, list[Region](), dict[int, int]()
    for r in np.lexsort((left_R, top_R, -peak_R, -count_R, row_R)):
        number = int(row_R[r])
        kept[number] = kept.get(number, 0) + 1
        if kept[number] > MOST_REGIONS:
            continue
        first_y, height = _pixels(int(top_R[r]), int(bottom_R[r]), values_NHW.shape[1], size[0])
        first_x, width = _pixels(int(left_R[r]), int(right_R[r]), values_NHW.shape[2], size[1])
        area = float(count_R[r] / num_places)
        found.append(Region(number, first_y, first_x, height, width, area, float(peak_R[r]), float(p_R[r])))
    return found


def labelled(flagged_NHW: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each flagged place a number [N, H, W] that those share which touch, by side or corner; -1 for the others."""
    num, height, width = flagged_NHW.shape
    wide = (height + 2) * (width + 2)
    step = max(1, PLACES_AT_ONCE // wide)
    found = [
        _labelled(some := flagged_NHW[first : first + step]) + np.where(some, first * wide, 0)
        for first in range(0, num, step)
    ]
    return np.concatenate(found)


def _labelled(flagged_NHW: NDArray[np.bool_]) -> NDArray[np.int32]:
    """As `labelled`, of few rows.

    A label is the number of a place. Each place takes the smallest around it and tells it to the place that its old
    label names; then it takes the label of its label. So a long region needs few rounds, however it winds.
    """
    num, height, width = flagged_NHW.shape
    wide = (num, height + 2, width + 2)
    none = np.int32(num * wide[1] * wide[2])  # larger than every label
    label_NHW = np.full(wide, none, np.int32)
    inner, label = label_NHW[:, 1:-1, 1:-1], label_NHW.reshape(-1)
    inner[flagged_NHW] = np.arange(none, dtype=np.int32).reshape(wide)[:, 1:-1, 1:-1][flagged_NHW]
    at = np.flatnonzero(label < none)
    while True:
        across = np.minimum(np.minimum(label_NHW[:, :, :-2], label_NHW[:, :, 1:-1]), label_NHW[:, :, 2:])
        around = np.minimum(np.minimum(across[:, :-2], across[:, 1:-1]), across[:, 2:])
        smallest, own = around[flagged_NHW], label[at]
        moved = smallest < own
        if not moved.any():
            break
        np.minimum.at(label, own[moved], smallest[moved])
        label[at] = np.minimum(label[at], smallest)
        label[at] = label[label[at]]
    return np.where(flagged_NHW, inner, -1)


def _pixels(first: int, end: int, num_places: int, num_pixels: int) -> tuple[int, int]:
    """First pixel and number of pixels that places first ... end - 1 cover, whole pixels."""
    start, stop = first * num_pixels // num_places, -(-end * num_pixels // num_places)
    return start, stop - start
