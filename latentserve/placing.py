"""Where an image of any size goes in an image of the model's size: the arithmetic of a `Resize`, without Pillow.

`latentserve.resizing` resizes by it; a client finds by it what a place of the model's image is in its own photograph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from latentserve.inputs import Halves, ImageInput

LEAST = 0.01
"""Of a pixel of the photograph that must lie in a box so that it belongs to it: less is rounding."""


class Box(NamedTuple):
    """Part of an image, in pixels."""

    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True)
class Placed:
    """How pixels of the model's image lie in the photograph: x there is `left + x * across`, y is `top + y * down`.

    Attributes:
        left: of the model's image in the photograph; negative where the model's shows more.
        top: of it.
        across: pixels of the photograph that a pixel of the model's is wide.
        down: that it is high.
        size: height and width of the photograph.
        seen: height and width of the model's image.
    """

    left: float
    top: float
    across: float
    down: float
    size: tuple[int, int]
    seen: tuple[int, int]

    def scaled(self, height: int, width: int) -> Placed:
        """The same for the photograph in another size."""
        down, across = height / self.size[0], width / self.size[1]
        left, top = self.left * across, self.top * down
        return Placed(left, top, self.across * across, self.down * down, (height, width), self.seen)

    def box(self, box: Box) -> Box | None:
        """A box of the model's image in the photograph, whole pixels; None where there is none of it, but black."""
        top, bottom = _within(self.top, self.down, box.y, box.height, self.size[0])
        left, right = _within(self.left, self.across, box.x, box.width, self.size[1])
        return Box(top, left, bottom - top, right - left) if bottom > top and right > left else None


def _within(start: float, scale: float, first: int, length: int, most: int) -> tuple[int, int]:
    """First pixel and end of what lies in the photograph."""
    low, high = start + first * scale + LEAST, start + (first + length) * scale - LEAST
    return max(0, math.floor(low)), min(most, math.ceil(high))


def placed(given: ImageInput, height: int, width: int) -> Placed:
    """Where the model's image lies in an upright photograph of this size.

    Raises:
        ValueError: the photograph has no pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"size: got {height} x {width} pixels (height x width), expected 1 or more of each")
    resize, size, seen = given.resize, (height, width), (given.height, given.width)
    if resize.how == "crop" and resize.shorter_side is not None:
        whole, starts = shorter_side_and_starts(
            (width, height), (given.width, given.height), resize.shorter_side, resize.halves
        )
        across, down = width / whole[0], height / whole[1]
        return Placed(starts[0] * across, starts[1] * down, across, down, size, seen)
    if resize.how == "crop" or width * given.height == height * given.width:
        left, upper, right, lower = center_crop(width, height, given.height, given.width)
        across, down = (right - left) / given.width, (lower - upper) / given.height
        return Placed(left, upper, across, down, size, seen)
    if resize.how == "fit":
        inside, place = fitted((width, height), (given.width, given.height))
        across, down = width / inside[0], height / inside[1]
        return Placed(-place[0] * across, -place[1] * down, across, down, size, seen)
    return Placed(0.0, 0.0, width / given.width, height / given.height, size, seen)


def center_crop(got_width: int, got_height: int, height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box (left, upper, right, lower) of aspect ratio width / height."""
    scale = min(got_width / width, got_height / height)
    left = max(0.0, (got_width - width * scale) / 2)  # rounded below 0 it would be no box for Pillow
    upper = max(0.0, (got_height - height * scale) / 2)
    return left, upper, left + width * scale, upper + height * scale


def fitted(got: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of a whole image in one of another size, and where it begins; as Pillow's ImageOps.pad.

    All are (width, height). One side of a very long image would be 0: it is 1.
    """
    (width, height), (got_width, got_height) = size, got
    if got_width * height >= width * got_height:  # wider than the model's, or as wide
        inside = (width, max(1, round(got_height / got_width * width)))
    else:
        inside = (max(1, round(got_width / got_height * height)), height)
    return inside, (round((width - inside[0]) * 0.5), round((height - inside[1]) * 0.5))


def shorter_side_and_starts(
    got: tuple[int, int], size: tuple[int, int], shorter_side: int, halves: Halves
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of an image whose shorter side was resized, and where in it the box of the model's size begins.

    All are (width, height), rounded as torchvision's Resize and CenterCrop round.
    """
    shorter = min(got)
    across, down = (shorter_side if one == shorter else int(shorter_side * one / shorter) for one in got)
    return (across, down), (_start(across, size[0], halves), _start(down, size[1], halves))


def _start(got: int, wanted: int, halves: Halves) -> int:
    """Where the box begins in an image of `got` pixels; negative where that is too small and black goes before it."""
    if got < wanted:
        return -((wanted - got) // 2)
    return round((got - wanted) / 2) if halves == "even" else (got - wanted) // 2
