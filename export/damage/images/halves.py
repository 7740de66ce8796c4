"""One half of the image is the mirror image of the other, or another image's."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row


def halves(given: Given) -> Row:
    """Either of the two halves at either axis."""
    image_HWC, rng = given.row.copy(), given.rng
    axis = int(rng.integers(2))
    half = image_HWC.shape[axis] // 2
    lost = slice(-half, None) if rng.random() < 0.5 else slice(None, half)
    source = np.flip(given.row, axis) if rng.random() < 0.5 else given.other
    index = (slice(None),) * axis
    image_HWC[(*index, lost)] = source[(*index, lost)]
    return image_HWC
