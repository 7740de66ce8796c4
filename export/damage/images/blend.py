"""Two images at once: usual texture, unusual content."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, as_pixels

FAINTEST, PLAINEST = 0.15, 0.5
"""Share of the other image."""


def blend(given: Given) -> Row:
    """Half of them a mean, the rest whichever is brighter, as of bright things on black."""
    share = FAINTEST + (PLAINEST - FAINTEST) * given.severity
    image_HWC, other_HWC = given.row.astype(np.float64), given.other.astype(np.float64)
    if given.rng.random() < 0.5:
        return as_pixels((1 - share) * image_HWC + share * other_HWC)
    return as_pixels(np.maximum(image_HWC, 2 * share * other_HWC))
