"""An image of any size, as Pillow holds it, in the size of a model's: by the rule of its `Resize`.

Every filter is antialiased: each pixel of the result is an average over all pixels of the image that it covers.
"""

from __future__ import annotations

from PIL import Image

from latentserve.inputs import ImageInput, Resize
from latentserve.placing import center_crop, fitted, shorter_side_and_starts

__all__ = ["center_crop", "resized"]

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST = 8
"""Of an image that is longer than this times its width only the box that is kept is resized: the whole of a strip of
1 x 10,000 pixels, made 256 wide, would be 2 GB. Rounded, the pixels may differ by one level."""

LARGE_PIXELS = 1_000_000
"""Of a JPEG from which on it is decoded at a part of its size, if the rule says so."""
FINER = 2
"""How many times as large as the result such an image is at least: with 2 no pixel of it differs by more than a few
levels from that of the whole image (`tests/latentserve/test_resizing.py`)."""


def resized(image: Image.Image, given: ImageInput, resample: Image.Resampling | None = None) -> Image.Image:
    """The image in the height and width of the model's, in its own mode.

    Args:
        image: of any size.
        given: the model's, with its rule.
        resample: another filter than the rule's: masks are no pictures, and take the nearest pixel.
    """
    size, resize = (given.width, given.height), given.resize
    resample = FILTERS[resize.filter] if resample is None else resample
    if resize.how == "crop" and resize.shorter_side is not None:
        return _shorter_side_then_crop(image, size, resize, resample)
    if image.size == size:
        return image
    if resize.how == "crop" or image.width * given.height == image.height * given.width:
        # of the model's own shape every rule is this one, to the last bit
        box = center_crop(*image.size, given.height, given.width)
        return image.resize(size, resample, box=box)
    if resize.how == "fit":
        return _whole_on_black(image, size, resample)
    return image.resize(size, resample)


def scaled_down(image: Image.Image, given: ImageInput, turned: bool) -> int:
    """Has libjpeg decode a large JPEG, of which only the header was read, at a part of its size, which is returned.

    Args:
        image: as Pillow opened it.
        given: the model's.
        turned: whether height and width change places afterwards.
    """
    if image.width * image.height < LARGE_PIXELS:
        return 1
    side = given.resize.shorter_side
    height, width = (given.width, given.height) if turned else (given.height, given.width)
    down, across = image.height / height, image.width / width
    if side is not None:
        down = across = min(image.size) / side
    finest = {"crop": min, "fit": max, "stretch": min}[given.resize.how](down, across)
    for factor in (8, 4, 2):
        if factor * FINER <= finest and image.width % factor == image.height % factor == 0:  # or its shape would change
            image.draft(None, (image.width // factor, image.height // factor))
            return factor
    return 1


def _shorter_side_then_crop(
    image: Image.Image, size: tuple[int, int], resize: Resize, resample: Image.Resampling
) -> Image.Image:
    """As torchvision's Resize(shorter_side) and CenterCrop(size), which pads with black, to the last bit."""
    assert resize.shorter_side is not None  # or the rule would be another
    whole, starts = shorter_side_and_starts(image.size, size, resize.shorter_side, resize.halves)
    box = (starts[0], starts[1], starts[0] + size[0], starts[1] + size[1])
    if max(image.size) <= LONGEST * min(image.size):
        return image.resize(whole, resample).crop(box)
    seen = (max(box[0], 0), max(box[1], 0), min(box[2], whole[0]), min(box[3], whole[1]))
    across, down = image.width / whole[0], image.height / whole[1]
    right, lower = min(seen[2] * across, image.width), min(seen[3] * down, image.height)
    of_image = (seen[0] * across, seen[1] * down, right, lower)
    part = image.resize((seen[2] - seen[0], seen[3] - seen[1]), resample, box=of_image)
    return _on_black(part, size, (seen[0] - box[0], seen[1] - box[1]))


def _whole_on_black(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """As Pillow's ImageOps.pad, of which one side of a very long image is 0."""
    inside, place = fitted(image.size, size)
    return _on_black(image.resize(inside, resample), size, place)


def _on_black(image: Image.Image, size: tuple[int, int], place: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    black = Image.new(image.mode, size, 0)
    black.paste(image, place)
    return black
