"""Samples of more than eight bits as eight, by the range that the file states.

Cameras of 10, 12 or 14 bits write their samples into 16, some stretched over the range and some not: an image of the
second kind looks like a dark one of the first. A file that does not state its range is rejected rather than taken for
nearly black. PNG's sBIT and TIFF's BitsPerSample, SMinSampleValue and SMaxSampleValue state the range.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentserve.image_files import GREY_AND_ALPHA, ImageError, Png

FULL_BITS = 16
DARK_BITS = 14
"""No sensor is known between 14 and 16 bits: samples that need 15 fill the range, those below may not."""
PLANAR_CONFIGURATION, PHOTOMETRIC, BITS_PER_SAMPLE = 284, 262, 258
SAMPLE_FORMAT, SMIN_SAMPLE_VALUE, SMAX_SAMPLE_VALUE = 339, 340, 341
UNSIGNED, WHITE_IS_ZERO, SEPARATE = 1, 0, 2
ADVICE = "state the range (PNG: sBIT, TIFF: SMaxSampleValue) or write 8 bits"
LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBX;16B": "RGBX;16L", "RGBA;16B": "RGBA;16L"}
LOW_BYTES |= {low: high for high, low in LOW_BYTES.items()}
"""Pillow keeps the high byte of colours of 16 bits. Read in the other byte order, the file yields the low ones."""


def png_samples(open_it: Callable[[], Image.Image], png: Png) -> NDArray[np.uint8]:
    """Of a PNG of 16 bits: uint8 [H, W, C], C 1 to 4, the last one opacity where it is 2 or 4."""
    samples_HWC: NDArray[Any]
    if png.colour_type == GREY_AND_ALPHA:  # as bytes: see Png
        high_low_HW4 = np.asarray(open_it()).astype(np.uint16)
        samples_HWC = high_low_HW4[..., ::2] << 8 | high_low_HW4[..., 1::2]
    elif png.colour_type == 0:
        samples_HWC = np.asarray(open_it(), np.uint16)[..., None]
    else:
        samples_HWC = _both_bytes(open_it)
    num_colours = len(samples_HWC[0, 0]) - (png.colour_type >= GREY_AND_ALPHA)
    parts = [samples_HWC[..., :num_colours], samples_HWC[..., num_colours:]]
    pixels_HWC = np.concatenate([_scaled(part, *_range(part, png.significant_bits)) for part in parts if part.size], -1)
    if png.transparent is not None:
        pixels_HWC[(samples_HWC == np.array(png.transparent, np.uint16)).all(axis=-1)] = 0
    return pixels_HWC


def tiff_samples(open_it: Callable[[], Image.Image], tags: Any) -> NDArray[np.uint8] | None:
    """Of a TIFF of more than 8 bits or of signed or floating samples: as `png_samples`. None of any other.

    Raises:
        ImageError: it does not state the range of its samples.
    """
    bits, kind = _common(tags, BITS_PER_SAMPLE, 1), _common(tags, SAMPLE_FORMAT, UNSIGNED)
    if kind == UNSIGNED and bits <= 8:
        return None
    low, high = (tags.get(name) for name in (SMIN_SAMPLE_VALUE, SMAX_SAMPLE_VALUE))
    if (kind != UNSIGNED or bits > FULL_BITS) and (high is None or (low is None and kind != UNSIGNED)):
        what = {UNSIGNED: "whole", 2: "signed"}.get(kind, "floating")
        raise ImageError(f"got {what} samples of {bits} bits of no stated range: {ADVICE}")
    image = open_it()
    if image.mode in ("I;16", "I;16B", "I", "F"):
        samples_HWC = np.asarray(image)[..., None]
        if kind == UNSIGNED and bits == 32:
            samples_HWC = samples_HWC.view(np.uint32)  # Pillow has no such mode
    elif image.mode in ("RGB", "RGBA") and tags.get(PLANAR_CONFIGURATION) != SEPARATE:
        samples_HWC = _both_bytes(open_it)
    else:
        raise ImageError(f"got {image.mode} of {bits} bits, expected grey, RGB or RGBA of more than 8 bits")
    parts = [part for part in (samples_HWC[..., :3], samples_HWC[..., 3:]) if part.size]
    if low is not None or high is not None:
        stated = _least(low, 0), _largest(high, (1 << bits) - 1)
        ranges = [stated, stated]
    else:
        ranges = [_range(part, None) if bits == FULL_BITS else (0, (1 << bits) - 1) for part in parts]
    pixels_HWC = np.concatenate([_scaled(part, *range_) for part, range_ in zip(parts, ranges, strict=False)], axis=-1)
    return 255 - pixels_HWC if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else pixels_HWC


def _both_bytes(open_it: Callable[[], Image.Image]) -> NDArray[np.uint16]:
    """Colours of 16 bits: uint16 [H, W, 3 or 4]."""
    low = open_it()
    for at, tile in enumerate(low.tile):  # type: ignore[attr-defined]
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        raw = args[0].replace("16N", "16L" if sys.byteorder == "little" else "16B")
        if raw not in LOW_BYTES:
            raise ImageError(f"got samples of 16 bits as {args[0]}, expected RGB or RGBA")
        swapped = (LOW_BYTES[raw], *args[1:])
        low.tile[at] = tile._replace(args=swapped if isinstance(tile.args, tuple) else swapped[0])  # type: ignore[attr-defined]
    samples = np.asarray(open_it()).astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(low)
    return samples


def _range(samples: NDArray[Any], stated_bits: int | None) -> tuple[int, int]:
    """Which samples are black and white, of 16 bits.

    Raises:
        ImageError: the file does not tell.
    """
    largest, full = int(samples.max()), (1 << FULL_BITS) - 1
    bits = DARK_BITS if stated_bits is None else stated_bits
    if largest == 0 or largest >= 1 << bits or bits >= FULL_BITS:
        return 0, full
    if stated_bits is not None and (samples & ((1 << (FULL_BITS - bits)) - 1)).any():
        return 0, (1 << bits) - 1  # not stretched: stretched samples that are small end in zeros
    if (samples % 257 == 0).all():  # bytes, stretched
        return 0, full
    raise ImageError(f"got 16-bit samples of at most {largest}, which may be dark or of fewer bits: {ADVICE}")


def _scaled(samples: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Low to 0, high to 255, rounded; beyond that clipped. Row by row: at once, a large image would take gigabytes."""
    if not (np.isfinite([low, high]).all() and low < high):
        raise ImageError(f"got a stated range of {low} to {high}, expected one that rises")
    pixels = np.empty(samples.shape, np.uint8)
    if samples.dtype.itemsize == 2 and samples.dtype.kind == "u":  # by a table: a tenth of the memory
        table: NDArray[np.uint8] = _scaled(np.arange(1 << FULL_BITS, dtype=np.float64)[None], low, high)[0]
        for row, samples_WC in enumerate(samples):
            pixels[row] = table[samples_WC]
        return pixels
    if not np.isfinite(samples).all():
        raise ImageError("got NaN or infinite samples, expected finite numbers")
    for row, samples_WC in enumerate(samples):
        levels = (samples_WC.astype(np.float64) - low) * (255 / (high - low))
        pixels[row] = np.clip(np.floor(levels + 0.5), 0, 255)
    return pixels


def _common(tags: Any, name: int, default: int) -> int:
    """The value of a tag that has one for each sample; the largest, where they differ."""
    return int(_largest(tags.get(name), default))


def _largest(value: Any, default: float) -> float:
    return default if value is None else float(np.max(value))


def _least(value: Any, default: float) -> float:
    return default if value is None else float(np.min(value))
