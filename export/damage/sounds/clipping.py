"""Too loud for what recorded it: peaks are cut."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, as_samples, between

FAINTEST, PLAINEST = 0.7, 0.08
"""Where peaks are cut, as a share of the largest."""


def clipping(given: Given) -> Row:
    """What is left is as loud as it was at its peak, or is not."""
    x_T = given.row.astype(np.float64)
    most = between(FAINTEST, PLAINEST, given.severity) * np.abs(x_T).max()
    return as_samples(x_T.clip(-most, most) * (1.0 if given.rng.random() < 0.5 else np.abs(x_T).max() / max(most, 1.0)))
