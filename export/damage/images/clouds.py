"""Ragged regions take the texture of another image or another brightness.

Regions are where smooth noise is high, as in Zavrtanik et al., DRAEM, https://arxiv.org/abs/2108.07610 (Perlin noise);
here it is white noise that was blurred.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from export.damage.parts import Given, Row, as_pixels, between, box, sign

SMALLEST, LARGEST = 0.01, 0.12
"""Shares of the image that are covered."""
FAINTEST, PLAINEST = 0.25, 0.9
"""Opacity of another texture."""
LEVELS = 140.0


def clouds(given: Given) -> Row:
    """In a window, so that the regions are not all over the image."""
    image_HWC, rng = given.row.astype(np.float64), given.rng
    height, width = image_HWC.shape[:2]
    window = box(rng, image_HWC, 0.6 * height, 0.6 * width)
    noise_HW = np.full((height, width), -np.inf)
    inside = rng.standard_normal((window.height, window.width))
    noise_HW[window.pixels] = gaussian_filter(inside, between(0.02, 0.08, rng.random()) * min(height, width))
    share = between(SMALLEST, LARGEST, rng.random())
    mask_HW1 = (noise_HW > np.quantile(noise_HW[window.pixels], 1 - share / 0.36))[:, :, None]
    opacity = between(FAINTEST, PLAINEST, given.severity)
    if rng.random() < 0.5:
        texture_HWC = np.roll(given.other, rng.integers(0, (height, width)), axis=(0, 1)).astype(np.float64)
        return as_pixels(image_HWC + opacity * mask_HW1 * (texture_HWC - image_HWC))
    return as_pixels(image_HWC + sign(rng) * opacity * LEVELS * mask_HW1)
