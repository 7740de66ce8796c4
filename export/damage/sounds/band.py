"""Frequencies are missing or too loud: another microphone, a telephone, something before it."""

from __future__ import annotations

import numpy as np

from export.damage.parts import Given, Row, as_samples, between, length, sign

FAINTEST, PLAINEST = 0.3, 4.0
"""By what power of e the band's amplitude changes."""


def band(given: Given) -> Row:
    """A band one to three octaves wide."""
    rng, num = given.rng, length(given.row)
    x_T = given.row.astype(np.float64)
    spectrum = np.fft.rfft(x_T[:num])
    octaves = np.log2(np.fft.rfftfreq(num) + 1e-6)
    inside = np.abs(octaves - rng.uniform(-6, -1)) < rng.uniform(0.5, 1.5)
    gain = sign(rng) * between(FAINTEST, PLAINEST, given.severity)
    x_T[:num] = np.fft.irfft(spectrum * np.exp(inside * min(gain, 2.0)), n=num)
    return as_samples(x_T)
