"""The image is turned: what is above is known for usual images, if anything is.

Source: Golan and El-Yaniv, Deep anomaly detection using geometric transformations, https://arxiv.org/abs/1805.10917.
"""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row


def turned(given: Given) -> Row:
    """By a half turn, or by a quarter to either side if the image is square."""
    height, width = given.row.shape[:2]
    quarters = int(given.rng.integers(1, 4)) if height == width else 2
    return np.ascontiguousarray(np.rot90(given.row, quarters))
