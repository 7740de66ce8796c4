"""Noise of a band of frequencies: grain of a sensor, or stripes and ripples."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, between, changed_by

FAINTEST, PLAINEST = 4.0, 40.0
"""Its standard deviation in grey levels."""


def grain(given: Given) -> Row:
    """White noise of which only frequencies near one that is drawn are left; the same in all channels."""
    rng, (height, width) = given.rng, given.row.shape[:2]
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    middle = between(0.05, 0.5, rng.random())
    noise_HW = np.fft.irfft2(spectrum * (np.abs(frequency - middle) < 0.5 * middle), s=(height, width))
    level = between(FAINTEST, PLAINEST, given.severity) / (noise_HW.std() + 1e-9)
    return changed_by(given.row, level * noise_HW[:, :, None])
