"""Played faster or slower: another pitch and another length."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, as_samples, between, length, sign

FAINTEST, PLAINEST = 0.04, 0.4
"""How far from 1 the speed is."""


def speed(given: Given) -> Row:
    """What does not fit any more is cut off."""
    num, x_T = length(given.row), np.zeros(len(given.row))
    faster = 1 + sign(given.rng) * between(FAINTEST, PLAINEST, given.severity)
    places = np.arange(min(len(x_T), int((num - 1) / faster) + 1)) * faster
    x_T[: len(places)] = np.interp(places, np.arange(num), given.row[:num].astype(np.float64))
    return as_samples(x_T)
