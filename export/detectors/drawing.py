"""Which training rows detectors are fitted on, and which others their fusion is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.units import Units, count, drawn

REFERENCE_ROWS = 2000
REFERENCE_SHARE = 0.2
"""Largest share of the training rows; the detectors are fitted on the rest."""
FEWEST_REFERENCE_UNITS = 2
"""A tail has two rows at least. With fewer units than that to draw, as of a camera that froze, rows are drawn."""
FIT_ROWS = 20_000
"""Over ten for each of 1,500 dimensions; fitting takes longer with every one more."""


class Drawn(NamedTuple):
    """Which training rows the detectors are fitted on, and which others the fusion is."""

    reference: NDArray[np.int64]
    fitted: NDArray[np.int64]


def draw(num_rows: int, units_N: Units | None) -> Drawn:
    """Draws some of so many rows, the same ones each time; reference rows from units of which none is fitted on."""
    if int(REFERENCE_SHARE * count(units_N, num_rows)) < FEWEST_REFERENCE_UNITS:
        units_N = None
    num_reference = min(REFERENCE_ROWS, int(REFERENCE_SHARE * count(units_N, num_rows)))
    reference, rest = drawn(units_N, np.random.default_rng(0).permutation(num_rows), num_reference)
    return Drawn(reference, rest[:FIT_ROWS])
