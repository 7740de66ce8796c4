"""Another form of the same thing: bent, sheared, wider or narrower.

Shape legend: H height, W width, C channels.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from export.damage.parts import Given, Row, as_pixels, between

FAINTEST, PLAINEST = 0.04, 0.2
"""How far pixels move, as a share of the shorter side."""


def bent(given: Given) -> Row:
    """Pixels move by smooth noise."""
    rng, (height, width, channels) = given.rng, given.row.shape
    side = min(height, width)
    field = [gaussian_filter(rng.standard_normal((height, width)), 0.12 * side, mode="wrap") for _ in range(2)]
    reach = between(FAINTEST, PLAINEST, given.severity) * side
    moved = [one * (reach / (np.abs(one).max() + 1e-9)) for one in field]
    y_HW, x_HW = np.mgrid[:height, :width] + np.stack(moved)
    planes = [
        map_coordinates(given.row[:, :, channel].astype(np.float64), (y_HW, x_HW), order=1, mode="nearest")
        for channel in range(channels)
    ]
    return as_pixels(np.stack(planes, axis=2))
