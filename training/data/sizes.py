"""The size of a set's images: what a user asks for, and how images of other sizes get there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentserve.inputs import HOWS, ImageInput, Resize
from training.data.rows import DataError

SMALLEST_IMAGE = 8


@dataclass(frozen=True)
class Size:
    """Height and width of rows.

    Attributes:
        height: in pixels.
        width: in pixels.
        resize: the rule by which images of other sizes become such.
        chosen: by the user, or by the run whose rows they are; else it is the default.
    """

    height: int
    width: int
    resize: Resize = Resize()  # noqa: RUF009 (frozen)
    chosen: bool = True

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"

    def input(self, channels: int) -> ImageInput:
        """As `latentserve.images` takes it."""
        return ImageInput(self.height, self.width, channels, resize=self.resize)


def parsed(image_size: int | str) -> tuple[int, int]:
    """Height and width: of `96` both, of `64x96` one each.

    Raises:
        DataError: it is neither, or too small.
    """
    text = str(image_size).strip()
    height, by, width = text.lower().partition("x")
    sides = [height, width] if by else [height, height]
    if not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
        raise DataError(f"image_size: got {text!r}, expected pixels such as 96, or HEIGHTxWIDTH such as 64x96")
    if min(map(int, sides)) < SMALLEST_IMAGE:
        raise DataError(f"image_size: got {text}, expected {SMALLEST_IMAGE} or more")
    return int(sides[0]), int(sides[1])


def rule(resize: Resize | str, scaled: bool = False) -> Resize:
    """A rule as it is, or by its name.

    Args:
        resize: the rule, or `crop`, `fit` or `stretch`.
        scaled: of a rule by its name: see `Resize`.

    Raises:
        DataError: no rule is called so.
    """
    if isinstance(resize, Resize):
        return resize
    for how in HOWS:
        if how == resize:
            return Resize(how, scaled=scaled)
    raise DataError(f"resize: got {resize!r}, expected one of {', '.join(HOWS)}")


def resized(images_NHWC: NDArray[np.uint8], size: Size | None) -> NDArray[np.uint8]:
    """Every image at another size, as `latentserve.images` would resize it; None: as they are."""
    if size is None or images_NHWC.shape[1:3] == (size.height, size.width):
        return images_NHWC
    from latentserve.images import fit_image  # imported here: sets whose images keep their size need no decoder

    num, _, _, channels = images_NHWC.shape
    out = np.empty((num, size.height, size.width, channels), np.uint8)
    for row, image_HWC in enumerate(images_NHWC):
        out[row] = fit_image(image_HWC, size.input(channels))
    return out
