"""One side of the image is brighter than the other, as by a lamp that moved."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, between, changed_by

FAINTEST, PLAINEST = 10.0, 90.0
"""Grey levels from one side to the other."""


def shading(given: Given) -> Row:
    """A plane, 0 in the middle."""
    height, width = given.row.shape[:2]
    angle = given.rng.uniform(0, 2 * np.pi)
    y_H1, x_1W = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None]
    plane_HW = y_H1 * np.sin(angle) + x_1W * np.cos(angle)
    return changed_by(given.row, between(FAINTEST, PLAINEST, given.severity) * plane_HW[:, :, None])
