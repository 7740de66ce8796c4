"""Two pieces of the image have changed places."""

from __future__ import annotations

from export.damage.parts import Given, Row, between, box

SMALLEST, LARGEST = 0.08, 0.4
"""Sides, as shares of the image's."""


def swap(given: Given) -> Row:
    """Where they overlap the second lies above."""
    image_HWC, rng = given.row.copy(), given.rng
    side = between(SMALLEST, LARGEST, given.severity)
    height, width = side * image_HWC.shape[0], side * image_HWC.shape[1]
    one, other = box(rng, image_HWC, height, width), box(rng, image_HWC, height, width)
    image_HWC[one.pixels] = given.row[other.pixels]
    image_HWC[other.pixels] = given.row[one.pixels]
    return image_HWC
