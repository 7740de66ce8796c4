"""A knock or a hiss of some milliseconds."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, as_samples, between, length

SHORTEST, LONGEST = 0.01, 0.15
"""Shares of the clip."""
FAINTEST, PLAINEST = 0.5, 8.0
"""Times the clip's loudness."""


def burst(given: Given) -> Row:
    """White noise that dies away."""
    x_T, rng = given.row.astype(np.float64), given.rng
    num = length(given.row)
    size = max(1, round(between(SHORTEST, LONGEST, rng.random()) * num))
    start = int(rng.integers(num - size + 1))
    noise = rng.standard_normal(size) * np.linspace(1, 0, size)
    x_T[start : start + size] += between(FAINTEST, PLAINEST, given.severity) * x_T[:num].std() * noise
    return as_samples(x_T)
