"""Where a box of the model's image lies in the photograph: held against what `resized` really shows there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latentserve.inputs import ImageInput, Resize
from latentserve.placing import Box, placed
from latentserve.resizing import resized

RULES = [
    Resize("crop"),
    Resize("fit"),
    Resize("stretch"),
    Resize("crop", shorter_side=24),
    Resize("crop", shorter_side=40, halves="down"),
]
SIZES = [(24, 24), (48, 96), (130, 70), (31, 37), (200, 20), (10, 12)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", RULES, ids=lambda rule: f"{rule.how}-{rule.shorter_side}")
def test_what_is_bright_in_the_models_image_is_bright_in_the_photograph(resize: Resize, size: tuple[int, int]) -> None:
    """A white block on grey is sent through the rule; its box there, brought back, is the block but for blur."""
    given = ImageInput(24, 16, 1, resize=resize)
    height, width = size
    where = placed(given, height, width)
    block = where.box(Box(8, 6, 8, 4))
    assert block is not None
    photo = np.full(size, 90, np.uint8)
    photo[block.y : block.y + block.height, block.x : block.x + block.width] = 255
    seen = np.asarray(resized(Image.fromarray(photo), given), int)
    assert seen[10:14, 7:9].min() > 200, "the middle of the box is bright"
    outside = np.ones_like(seen, np.bool_)
    margin = 3 if min(where.down, where.across) > 0.7 else 6  # a pixel of a small photograph is several
    outside[max(0, 8 - margin) : 16 + margin, max(0, 6 - margin) : 10 + margin] = False
    assert not outside.any() or seen[outside].max() < 150, "and what is far from it is not"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", RULES, ids=lambda rule: f"{rule.how}-{rule.shorter_side}")
def test_no_box_reaches_out_of_the_photograph(resize: Resize, size: tuple[int, int]) -> None:
    where = placed(ImageInput(24, 16, 1, resize=resize), *size)
    whole = where.box(Box(0, 0, 24, 16))
    assert whole is not None
    assert whole.y >= 0 <= whole.x
    assert (whole.y + whole.height, whole.x + whole.width) <= size
    if resize.how != "crop":
        assert whole == Box(0, 0, *size)


def test_where_there_is_black_there_is_no_box() -> None:
    where = placed(ImageInput(100, 100, 1, resize=Resize("fit")), 50, 100)
    assert where.box(Box(0, 0, 10, 100)) is None
    assert where.box(Box(20, 0, 10, 10)) == Box(0, 0, 5, 10)  # of which half is black


def test_boxes_of_a_photograph_in_the_models_own_size_are_themselves() -> None:
    for resize in RULES[:3]:
        assert placed(ImageInput(24, 16, 1, resize=resize), 24, 16).box(Box(3, 5, 7, 2)) == Box(3, 5, 7, 2)


def test_a_photograph_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size: got 0 x 5 pixels .* expected 1 or more of each"):
        placed(ImageInput(24, 16, 1), 0, 5)


def test_hostile_sizes_are_only_numbers() -> None:
    for size in ((1, 1), (1, 10**7), (10**7, 1)):
        for resize in RULES:
            box = placed(ImageInput(24, 16, 1, resize=resize), *size).box(Box(0, 0, 24, 16))
            assert box is None or (box.height >= 1 and box.width >= 1)
