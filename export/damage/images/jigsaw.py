"""The quarters of the image have changed places."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row


def jigsaw(given: Given) -> Row:
    """Two of them at least; what is left over at the right and at the bottom stays."""
    image_HWC = given.row.copy()
    height, width = (side // 2 for side in image_HWC.shape[:2])
    places = [(top, left) for top in (0, height) for left in (0, width)]
    order = np.roll(np.arange(4), int(given.rng.integers(1, 4))) if given.severity > 0.5 else _two(given.rng)
    for (top, left), (y, x) in zip(places, (places[one] for one in order), strict=True):
        image_HWC[top : top + height, left : left + width] = given.row[y : y + height, x : x + width]
    return image_HWC


def _two(rng: np.random.Generator) -> list[int]:
    one, other = rng.choice(4, 2, replace=False)
    order = list(range(4))
    order[one], order[other] = order[other], order[one]
    return order
