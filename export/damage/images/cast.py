"""Another colour, contrast or exposure."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, as_pixels, between, sign

FAINTEST, PLAINEST = 0.06, 0.5
"""How far from 1 what channels are multiplied by."""


def cast(given: Given) -> Row:
    """Channels by factors of their own; of grey images the contrast around the mean."""
    image_HWC, rng = given.row.astype(np.float64), given.rng
    strength = between(FAINTEST, PLAINEST, given.severity)
    if image_HWC.shape[2] > 1 and rng.random() < 0.7:
        factors_C = rng.uniform(-1, 1, image_HWC.shape[2])
        factors_C *= strength / (np.abs(factors_C).max() + 1e-9)
        return as_pixels(image_HWC * (1 + factors_C))
    mean = image_HWC.mean() if rng.random() < 0.5 else 0.0
    return as_pixels(mean + (image_HWC - mean) * (1 + sign(rng) * strength))
