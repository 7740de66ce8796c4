"""Out of focus, all of it or a part."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from export.damage.parts import Given, Row, as_pixels, between, box

SHARPEST, SOFTEST = 0.01, 0.06
"""Standard deviations, as shares of the shorter side."""


def blur(given: Given) -> Row:
    """Half of the images are blurred in a box of half their sides only."""
    image_HWC, rng = given.row.copy(), given.rng
    height, width = image_HWC.shape[:2]
    deviation = max(0.5, between(SHARPEST, SOFTEST, given.severity) * min(height, width))
    share = 1.0 if rng.random() < 0.5 else 0.5
    part = box(rng, image_HWC, share * height, share * width).pixels
    image_HWC[part] = as_pixels(gaussian_filter(given.row.astype(np.float64), (deviation, deviation, 0))[part])
    return image_HWC
