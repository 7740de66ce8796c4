"""A piece of the image, or of another, stands somewhere else.

Source: Li et al., CutPaste, https://arxiv.org/abs/2104.04015 (pieces of 2 to 15 % of the area, from the image itself).
"""

from __future__ import annotations

from export.damage.parts import Given, Row, between, box

SMALLEST, LARGEST = 0.06, 0.35
"""Sides, as shares of the image's."""


def cut_paste(given: Given) -> Row:
    """Half of the pieces are of another image."""
    image_HWC, rng = given.row.copy(), given.rng
    side = between(SMALLEST, LARGEST, given.severity)
    stretch = between(0.6, 1 / 0.6, rng.random())
    height, width = side * stretch * image_HWC.shape[0], side / stretch * image_HWC.shape[1]
    to = box(rng, image_HWC, height, width)
    taken = box(rng, image_HWC, height, width)
    source = given.other if rng.random() < 0.5 else given.row
    image_HWC[to.pixels] = source[taken.pixels]
    return image_HWC
