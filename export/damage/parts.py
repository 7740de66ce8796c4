"""What kinds of damage have in common.

Shape legend: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = NDArray[Any]
"""One row: uint8 [H, W, C] or int16 [T]."""


class Given(NamedTuple):
    """What a kind of damage is made of.

    Attributes:
        row: to be damaged.
        other: another row, of whose like something may be pasted.
        severity: from 0, faint, to 1, plain.
        rng: draws the rest.
    """

    row: Row
    other: Row
    severity: float
    rng: np.random.Generator


Damage = Callable[[Given], Row]


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """As an index of an image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def box(rng: np.random.Generator, image_HWC: Row, height: float, width: float) -> Box:
    """A rectangle of so many pixels, at least one and at most all, somewhere in an image."""
    tall, wide = image_HWC.shape[:2]
    rows, columns = (int(np.clip(round(size), 1, most)) for size, most in ((height, tall), (width, wide)))
    return Box(int(rng.integers(tall - rows + 1)), int(rng.integers(wide - columns + 1)), rows, columns)


def apart(image_HWC: Row, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each pixel lies below and to the right of one that is drawn: two arrays that broadcast to [H, W]."""
    height, width = image_HWC.shape[:2]
    below_H1 = np.arange(height)[:, None] - rng.uniform(0.1, 0.9) * height
    right_1W = np.arange(width)[None] - rng.uniform(0.1, 0.9) * width
    return below_H1, right_1W


def between(low: float, high: float, severity: float) -> float:
    """From low to high, by factors that are equal for equal steps of severity."""
    return float(low * (high / low) ** severity)


def changed_by(image_HWC: Row, change: NDArray[np.float64]) -> Row:
    """An image plus grey levels."""
    return as_pixels(image_HWC.astype(np.float64) + change)


def as_pixels(image_HWC: NDArray[np.float64]) -> Row:
    """Rounded, and cut at black and white."""
    return np.rint(image_HWC).clip(0, 255).astype(np.uint8)


def as_samples(x_T: NDArray[np.float64]) -> Row:
    """Rounded, and cut at full scale."""
    return np.rint(x_T).clip(-32768, 32767).astype(np.int16)


def sign(rng: np.random.Generator) -> float:
    """Brighter or darker."""
    return 1.0 if rng.random() < 0.5 else -1.0


def length(x_T: Row) -> int:
    """Samples before the zeros that pad a clip at its end."""
    sounding = np.flatnonzero(x_T)
    return int(sounding[-1]) + 1 if len(sounding) else len(x_T)
