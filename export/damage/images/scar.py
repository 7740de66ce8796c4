"""A thin line across a part of the image, as a scratch or a crack is.

Shape legend: H height, W width, C channels.
"""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, apart, between, changed_by, sign

FAINTEST, PLAINEST = 20.0, 130.0
"""Grey levels at its middle."""


def scar(given: Given) -> Row:
    """A straight line, brighter or darker than what lies beneath."""
    image_HWC, rng = given.row, given.rng
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    angle = rng.uniform(0, np.pi)
    y_HW, x_HW = apart(image_HWC, rng)
    along_HW = y_HW * np.sin(angle) + x_HW * np.cos(angle)
    across_HW = y_HW * np.cos(angle) - x_HW * np.sin(angle)
    half_length, half_width = rng.uniform(0.08, 0.3) * side, max(0.5, rng.uniform(0.004, 0.02) * side)
    mask_HW = np.exp(-0.5 * np.square(across_HW / half_width)) * (np.abs(along_HW) <= half_length)
    level = sign(rng) * between(FAINTEST, PLAINEST, given.severity)
    return changed_by(image_HWC, level * mask_HW[:, :, None])
