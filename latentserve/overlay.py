"""A photograph with an anomaly map over it: heat where the map is high, boxes around regions. Needs Pillow.

Shape legend: H height, W width of a picture; h, w places of a map; C channels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput, Unsupported
from latentserve.items import as_array
from latentserve.placing import Box, Placed

try:
    from PIL import Image, ImageDraw, ImageOps
except ImportError as error:
    raise Unsupported("overlay: got no Pillow, expected it: pip install pillow") from error

SMALLEST_SIDE, LARGEST_SIDE = 512, 1600
"""Pixels of the longer side: smaller pictures are made larger, pixel by pixel, so that boxes can be seen."""
HOTTEST = 3.0
"""Heat from which on places look alike: twice as far above the threshold as that is above an ordinary place."""
FAINT, STEP, STRONG = 0.2, 0.45, 0.65
"""Opacity just below the threshold, at it, and of the hottest places."""
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag that says how a photo was held, and by which values height and width change places."""
INFERNO = np.array(
    [
        (0.00, 159, 42, 99),
        (0.35, 212, 72, 66),
        (0.65, 245, 125, 21),
        (0.85, 250, 193, 39),
        (1.00, 252, 255, 164),
    ]
)
"""The upper half of the colour map, whose lightness rises evenly; its darkest would hide what is below.
Source: matplotlib's inferno, public domain (CC0)."""


def opened(image: Any) -> Image.Image:
    """A photograph as the service sees it: upright, in RGB, of several frames the first.

    Raises:
        InvalidInput: it is no image.
    """
    try:
        if isinstance(image, Image.Image):
            picture = image
        elif isinstance(image, (bytes, bytearray, memoryview)):
            picture = Image.open(io.BytesIO(image))
        elif isinstance(image, (str, PathLike)):
            picture = Image.open(io.BytesIO(Path(image).read_bytes()))
        else:
            return Image.fromarray(_pixels(image))
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):  # deeper than eight bits
            deep = np.asarray(upright, np.float64)
            upright = Image.fromarray(np.uint8(np.clip(deep / max(deep.max(), 1.0) * 255, 0, 255)))
        return upright.convert("RGB")
    except InvalidInput:
        raise
    except Exception as error:  # any of Pillow's, of a file that is none
        raise InvalidInput.at("image", got=_named(image), expected=f"an image that Pillow reads ({error})") from error


def opened_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a file as it is seen, by its header; None if it is no image."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # any of Pillow's
        return None


def _pixels(image: Any) -> NDArray[np.uint8]:
    array = as_array(image, "image")
    if array is None or array.ndim != 3 or array.shape[2] not in (1, 3) or array.dtype.kind not in "iu":
        got = _named(image) if array is None else f"{array.dtype} {list(array.shape)}"
        raise InvalidInput.at("image", got=got, expected="a file or uint8 [height, width, 1 or 3]")
    return np.repeat(array.astype(np.uint8), 3 // array.shape[2], axis=2)


def _named(image: Any) -> str:
    return repr(str(image)) if isinstance(image, (str, PathLike)) else type(image).__name__


def drawn(
    picture: Image.Image, map_hw: NDArray[np.float32], threshold: float, where: Placed, boxes: Sequence[Box]
) -> Image.Image:
    """The overlay, in RGB.

    Args:
        picture: the photograph, upright, RGB.
        map_hw: the map.
        threshold: the smallest value that is flagged.
        where: the model's image lies in the photograph.
        boxes: of the regions, in the model's image.
    """
    height, width = _size(picture.height, picture.width)
    larger = height > picture.height
    base = picture.resize((width, height), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
    where = where.scaled(height, width)
    heat_HW = spread(heat(map_hw, threshold), where)
    opacity_HW1 = opacity(heat_HW)[:, :, None]
    mixed = np.asarray(base, np.float32) * (1 - opacity_HW1) + colours(heat_HW) * opacity_HW1
    result = Image.fromarray(np.uint8(np.rint(mixed)))
    draw, line = ImageDraw.Draw(result), max(1, max(height, width) // 300)
    for box in boxes:
        if (found := where.box(box)) is not None:
            for grown, colour in ((line, (0, 0, 0)), (0, (255, 255, 255))):  # seen on dark and on light
                low, high = (found.x - grown, found.y - grown), (found.x + found.width, found.y + found.height)
                draw.rectangle((low, (high[0] + grown - 1, high[1] + grown - 1)), outline=colour, width=line)
    return result


def _size(height: int, width: int) -> tuple[int, int]:
    """Of the overlay. Its longer side lies between two bounds; small pictures grow by whole factors."""
    longer = max(height, width)
    scale = LARGEST_SIDE / longer if longer > LARGEST_SIDE else max(1, round(SMALLEST_SIDE / longer))
    return max(1, round(height * scale)), max(1, round(width * scale))


def heat(map_hw: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """The map in units of its own: 0 is the median of what is not flagged, 1 the threshold; -1 to HOTTEST."""
    finite_hw = np.isfinite(map_hw)
    values = map_hw[finite_hw].astype(np.float64)
    below = values[values < threshold]
    low = float(np.median(below)) if len(below) else threshold - max(1e-6, float(np.ptp(values)) if len(values) else 0)
    found = np.full(map_hw.shape, HOTTEST, np.float32)
    found[finite_hw] = np.clip((values - low) / (threshold - low), -1, HOTTEST)
    return found


def spread(heat_hw: NDArray[np.float32], where: Placed) -> NDArray[np.float32]:
    """Heat of each pixel of the photograph, bilinear between the centres of places; -1 where the model did not look."""
    down_Hh = _weights(where.top, where.down, where.size[0], where.seen[0], heat_hw.shape[0])
    across_Ww = _weights(where.left, where.across, where.size[1], where.seen[1], heat_hw.shape[1])
    found = (down_Hh @ heat_hw @ across_Ww.T).astype(np.float32)
    found[down_Hh.sum(axis=1) == 0] = -1
    found[:, across_Ww.sum(axis=1) == 0] = -1
    return found


def _weights(start: float, scale: float, num_pixels: int, num_seen: int, num_places: int) -> NDArray[np.float64]:
    """How much of each place goes into each pixel of one axis [pixels, places]; nothing outside what is seen."""
    seen = (np.arange(num_pixels) + 0.5 - start) / scale
    place = np.clip(seen * num_places / num_seen - 0.5, 0, num_places - 1)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(num_places)))
    weights[(seen < 0) | (seen > num_seen)] = 0
    return weights


def opacity(heat_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nothing up to halfway to the threshold, faint below it, and a step at it: what is flagged has an edge."""
    found = np.interp(heat_HW, (0.5, 1, 1.001, HOTTEST), (0, FAINT, STEP, STRONG))
    return found.astype(np.float32)


def colours(heat_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours [H, W, C], 0 to 255."""
    along = (heat_HW - 0.5) / (HOTTEST - 0.5)
    channels = [np.interp(along, INFERNO[:, 0], INFERNO[:, channel]) for channel in (1, 2, 3)]
    return np.stack(channels, axis=2).astype(np.float32)
