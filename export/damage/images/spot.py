"""A round blot with a soft edge: a stain, a pore, a drop."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, apart, between, changed_by, sign

FAINTEST, PLAINEST = 20.0, 130.0
"""Grey levels at its middle."""
SMALLEST, LARGEST = 0.015, 0.08
"""Standard deviations, as shares of the shorter side."""


def spot(given: Given) -> Row:
    """Brighter or darker than what lies beneath."""
    image_HWC, rng = given.row, given.rng
    radius = max(0.6, between(SMALLEST, LARGEST, rng.random()) * min(image_HWC.shape[:2]))
    y_HW, x_HW = apart(image_HWC, rng)
    mask_HW = np.exp(-0.5 * (np.square(y_HW) + np.square(x_HW)) / radius**2)
    return changed_by(image_HWC, sign(rng) * between(FAINTEST, PLAINEST, given.severity) * mask_HW[:, :, None])
