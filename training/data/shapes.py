"""Rendered shapes with known factors, like dSprites: white on black, one shape an image.

Every image is a function of its index, so no file is needed and any two machines agree. The index counts
through the factors with position_y fastest:

    shape (3) x scale (6) x orientation (40) x position_x (32) x position_y (32) = 737,280

Source of the factors: Matthey et al., dSprites, https://github.com/google-deepmind/dsprites-dataset.
Unlike dSprites the edges are antialiased, so that small sizes stay readable.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.rows import Data, DataError, Rows
from training.data.sizes import Size
from training.data.units import row_digests

FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "position_x": 32, "position_y": 32}
NUM_SHAPES = int(np.prod(list(FACTORS.values())))
IMAGE_SIZE = 32
NUM_TRAIN = 50_000
NUM_CALIBRATION = 5_000
NUM_TEST = 5_000

_SUPERSAMPLING = 3
_LARGEST_RADIUS = 0.22  # of the image's side: the largest shape at the outermost position stays inside
_ROWS_AT_ONCE = 1000
_POINTS_AT_ONCE = 2**22


def load(size: Size | None, seed: int) -> Data:
    """60,000 images drawn from all by the seed, in three splits; no two splits have equal images.

    Labels are the kind of shape; factors are in the order of `FACTORS`.

    Raises:
        DataError: a size that is not square.
    """
    if size is not None and size.height != size.width:
        raise DataError(f"image_size: got {size.height}x{size.width}, expected a square such as 64 for shapes")
    order = np.random.default_rng(seed).permutation(NUM_SHAPES)
    side = size.height if size else IMAGE_SIZE
    train = _rows(order[:NUM_TRAIN], side)
    calibration, num_used = _others(order[NUM_TRAIN:], NUM_CALIBRATION, side, train)
    test, _ = _others(order[NUM_TRAIN + num_used :], NUM_TEST, side, train, calibration)
    return Data("shapes", train, calibration, test)


def _rows(indices: NDArray[np.integer], size: int) -> Rows:
    values = factors(indices)
    return Rows(render(indices, size), values[:, 0], factors_NF=values)


def _others(indices: NDArray[np.integer], num: int, size: int, *before: Rows) -> tuple[Rows, int]:
    """The first so many shapes that look like none before, and how many indices were gone through for them.

    A square turned by 90 degrees has another index and is the same image: nothing that calibrates or is tested on may
    have been trained on.
    """
    taken = {digest for rows in before for digest in row_digests(rows.values)}
    fresh, start = list[int](), 0
    while len(fresh) < num:
        part = indices[start : start + _ROWS_AT_ONCE]
        fresh += [start + i for i, digest in enumerate(row_digests(render(part, size))) if digest not in taken]
        start += _ROWS_AT_ONCE
    return _rows(indices[fresh[:num]], size), fresh[num - 1] + 1


def factors(indices: NDArray[np.integer]) -> NDArray[np.int64]:
    """int64 [n, 5]: the value of each factor, in the order of `FACTORS`.

    Raises:
        IndexError: an index below 0 or at NUM_SHAPES or above.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= NUM_SHAPES):
        raise IndexError(f"shapes: got {indices.min()} to {indices.max()}, expected 0 to {NUM_SHAPES - 1}")
    return np.stack(np.unravel_index(indices, list(FACTORS.values())), axis=1).astype(np.int64)


def render(indices: NDArray[np.integer], image_size: int = IMAGE_SIZE) -> NDArray[np.uint8]:
    """uint8 [n, image_size, image_size, 1]."""
    values = factors(indices)
    out = np.empty((len(values), image_size, image_size, 1), np.uint8)
    num_rows = max(1, _POINTS_AT_ONCE // (image_size * _SUPERSAMPLING) ** 2)
    for start in range(0, len(values), num_rows):
        part = slice(start, start + num_rows)
        out[part, ..., 0] = _render(values[part], image_size)
    return out


def _render(factors_N5: NDArray[np.int64], image_size: int) -> NDArray[np.uint8]:
    """Asks for each point of a finer grid whether it is inside, then averages to pixels."""
    fine = image_size * _SUPERSAMPLING
    points = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    shape, scale, orientation, x, y = factors_N5.T
    radius = (_LARGEST_RADIUS * np.linspace(0.5, 1.0, FACTORS["scale"])[scale]).astype(np.float32)
    angle = (orientation * (2 * np.pi / FACTORS["orientation"])).astype(np.float32)
    margin = _LARGEST_RADIUS * 1.25  # a heart reaches 1.25 radii from its centre
    place = np.linspace(margin, 1 - margin, FACTORS["position_x"]).astype(np.float32)
    dx_N1W = ((points[None] - place[x][:, None]) / radius[:, None])[:, None, :]
    dy_NH1 = ((points[None] - place[y][:, None]) / radius[:, None])[:, :, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u_NHW = cos * dx_N1W + sin * dy_NH1
    v_NHW = cos * dy_NH1 - sin * dx_N1W
    inside = np.empty(u_NHW.shape, np.float32)
    for kind, test in enumerate((_square, _ellipse, _heart)):
        rows = shape == kind
        inside[rows] = test(u_NHW[rows], v_NHW[rows])
    cells = inside.reshape(len(inside), image_size, _SUPERSAMPLING, image_size, _SUPERSAMPLING)
    pixels: NDArray[np.uint8] = np.round(cells.mean(axis=(2, 4)) * 255).astype(np.uint8)
    return pixels


def _square(u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.maximum(np.abs(u), np.abs(v)) < 0.8
    return inside


def _ellipse(u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = u**2 + (v / 0.6) ** 2 < 1
    return inside


def _heart(u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(u^2 + w^2 - 1)^3 < u^2 w^3 with w pointing up."""
    u, w = u * 1.1, -v * 1.1 + 0.1
    inside: NDArray[np.bool_] = (u**2 + w**2 - 1) ** 3 < u**2 * w**3
    return inside
