"""A part of the image is gone: what surrounds it goes on there, or nothing does."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, between, box

SMALLEST, LARGEST = 0.1, 0.5
"""Sides, as shares of the image's."""


def faded(given: Given) -> Row:
    """Filled with the median of the image, or of the box's rim."""
    image_HWC, rng = given.row.copy(), given.rng
    side = between(SMALLEST, LARGEST, given.severity)
    part = box(rng, image_HWC, side * image_HWC.shape[0], side * image_HWC.shape[1]).pixels
    inside = image_HWC[part]
    rim = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    whole = image_HWC.reshape(-1, image_HWC.shape[2])
    image_HWC[part] = np.median(rim if rng.random() < 0.5 else whole, axis=0).astype(np.uint8)
    return image_HWC
