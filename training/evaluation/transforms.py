"""Known changes of an image: what equivariance is measured against, and what corruptions move with.

Shape legend: N images, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.data.lazy import rows_within

Pixels = NDArray[np.uint8]

SHIFT = 1 / 14  # of the side, so 2 pixels of MNIST's 28; at least one pixel
DEGREES = 15.0
SCALE = 0.8
BRIGHTER = 51  # 0.2 of 255
_BYTES_AT_ONCE = 2**20  # of pixels: of each there are some numbers in float64


def warped(
    images_NHWC: Pixels, degrees: NDArray[np.float64], scale: NDArray[np.float64], shift_N2: NDArray[np.float64]
) -> Pixels:
    """Every image rotated and scaled about its centre, then shifted; bilinear, the border goes on outside.

    Args:
        images_NHWC: uint8.
        degrees: [N] or [1], anticlockwise as one looks at the image.
        scale: [N] or [1], above 1 enlarges.
        shift_N2: [N, 2] or [1, 2], pixels down and to the right.
    """
    out = np.empty_like(images_NHWC)
    num_rows = rows_within(images_NHWC, _BYTES_AT_ONCE)
    for start in range(0, len(images_NHWC), num_rows):
        part = slice(start, start + num_rows)
        own = [values if len(values) == 1 else values[part] for values in (degrees, scale, shift_N2)]
        out[part] = _warped(images_NHWC[part], *own)
    return out


def _warped(
    images_NHWC: Pixels, degrees: NDArray[np.float64], scale: NDArray[np.float64], shift_N2: NDArray[np.float64]
) -> Pixels:
    num, height, width, _ = images_NHWC.shape
    sin, cos = (f(np.deg2rad(degrees))[:, None, None] for f in (np.sin, np.cos))
    y = np.arange(height)[None, :, None] - (height - 1) / 2 - shift_N2[:, :1, None]
    x = np.arange(width)[None, None, :] - (width - 1) / 2 - shift_N2[:, 1:, None]
    # where each pixel of the result comes from: the inverse rotation, with y pointing down
    from_y = (cos * y + sin * x) / scale[:, None, None] + (height - 1) / 2
    from_x = (cos * x - sin * y) / scale[:, None, None] + (width - 1) / 2
    from_y, from_x = (
        np.broadcast_to(np.clip(place, 0, side - 1), (num, height, width))
        for place, side in ((from_y, height), (from_x, width))
    )
    top, left = np.floor(from_y).astype(np.intp), np.floor(from_x).astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, along = (from_y - top)[..., None], (from_x - left)[..., None]
    image = np.arange(num)[:, None, None]
    upper = images_NHWC[image, top, left] * (1 - along) + images_NHWC[image, top, right] * along
    lower = images_NHWC[image, bottom, left] * (1 - along) + images_NHWC[image, bottom, right] * along
    return as_pixels(upper * (1 - down) + lower * down)


def as_pixels(values: NDArray[np.floating]) -> Pixels:
    """Rounded and clipped to 0 to 255."""
    pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def shifted(images_NHWC: Pixels) -> Pixels:
    """Moves images to the right by a fourteenth of the width, at least a pixel."""
    pixels = max(1, round(SHIFT * images_NHWC.shape[2]))
    return warped(images_NHWC, np.zeros(1), np.ones(1), np.array([[0.0, pixels]]))


def rotated(images_NHWC: Pixels) -> Pixels:
    """Turns images by 15 degrees, anticlockwise."""
    return warped(images_NHWC, np.array([DEGREES]), np.ones(1), np.zeros((1, 2)))


def flipped(images_NHWC: Pixels) -> Pixels:
    """Left becomes right."""
    return np.ascontiguousarray(images_NHWC[:, :, ::-1])


def scaled(images_NHWC: Pixels) -> Pixels:
    """Shrinks what is in images to four fifths of its size."""
    return warped(images_NHWC, np.zeros(1), np.array([SCALE]), np.zeros((1, 2)))


def brightened(images_NHWC: Pixels) -> Pixels:
    """Brightens images by a fifth of the range."""
    return as_pixels(images_NHWC.astype(np.float32) + BRIGHTER)


GENERATORS: dict[str, Callable[[Pixels], Pixels]] = {
    "shift": shifted,
    "rotate": rotated,
    "flip": flipped,
    "scale": scaled,
    "brighten": brightened,
}
