"""Which images are nearly equal: a perceptual hash of 63 bits, and pairs that differ in few of them.

Of the image in grey the 8 x 8 lowest frequencies of the cosine transform are kept but for the mean, and each is told
from the median of them. What frames of a burst differ in (noise, exposure, a little shaking, JPEG) hardly moves these.
Source: Zauner, Implementation and benchmarking of perceptual image hash functions (2010), section 3.2.1, DCT based.

Shape legend: N images, H height, W width, C channels, B bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.units import Units, components

FREQUENCIES = 8  # Zauner's; with 64 of them but the mean a hash fits one integer
NEAR_BITS = 6
"""Bits of 63 that may differ. Two unrelated images, whose bits are coins, come that close once in 10^11 pairs."""
ROWS_AT_ONCE = 100
PAIRS_AT_ONCE = 2**22


def perceptual_hashes(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One hash for each image, uint64 [N], of which 63 bits are used."""
    _, height, width, _ = images_NHWC.shape
    down_FH, across_FW = cosines(height), cosines(width)
    hashes = np.empty(len(images_NHWC), np.uint64)
    weights_B = np.uint64(1) << np.arange(FREQUENCIES**2 - 1, dtype=np.uint64)
    for start in range(0, len(images_NHWC), ROWS_AT_ONCE):
        grey_NHW = np.asarray(images_NHWC[start : start + ROWS_AT_ONCE]).mean(axis=3)
        waves_NB = (down_FH @ grey_NHW @ across_FW.T).reshape(len(grey_NHW), -1)[:, 1:]
        # a constant image has no waves but for rounding, which must not decide
        waves_NB = np.where(np.abs(waves_NB) < 1e-6, 0, waves_NB)
        bits_NB = waves_NB > np.median(waves_NB, axis=1, keepdims=True)
        hashes[start : start + len(grey_NHW)] = (bits_NB * weights_B).sum(axis=1, dtype=np.uint64)
    return hashes


def cosines(size: int) -> NDArray[np.float64]:
    """The lowest frequencies of the discrete cosine transform II of so many points, [FREQUENCIES, size]."""
    waves: NDArray[np.float64] = np.cos(np.pi / size * (np.arange(size) + 0.5) * np.arange(FREQUENCIES)[:, None])
    return waves / size


def near_rows(images_NHWC: NDArray[np.uint8], most_bits: int = NEAR_BITS) -> Units:
    """The same number for images whose hashes differ in at most so many bits, be it through others between them."""
    hashes_U, of_rows_N = np.unique(perceptual_hashes(images_NHWC), return_inverse=True)
    num = len(hashes_U)
    unit_U: NDArray[Any] = np.arange(num)
    step = max(1, PAIRS_AT_ONCE // num)
    for start in range(0, num, step):
        distance = np.bitwise_count(hashes_U[start : start + step, None] ^ hashes_U[None, start:])
        rows, others = np.nonzero(distance <= most_bits)
        unit_U = components(unit_U[start + rows], unit_U[start + others], num)[unit_U]
    return unit_U[of_rows_N]
