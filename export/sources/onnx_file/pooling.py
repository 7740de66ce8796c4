"""From tensors of a file to one embedding a row, and to a vector for each place: in numpy, and as nodes of a graph.

Shape legend: B rows, D embedding, h w places, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.sources.onnx_file.parts import Parts
from latentserve.inputs import ImageInput

SHORTEST = 1e-12
"""Embeddings are divided by their length, or by this where they have none: torch.nn.functional.normalize's."""
MOST_TOKENS_BESIDE = 8
"""Tokens that are no places: a class, registers (DINOv2: 4)."""
FEWEST_PLACES = 3
"""For each token that is none, so that no short sequence is taken for a grid."""

Kind = Literal["vector", "map_first", "map_last", "tokens"]
"""[B, D], [B, D, h, w], [B, h, w, D], [B, T, D]."""
Pooling = Literal["none", "mean", "cls"]


@dataclass(frozen=True)
class Pooled:
    """How an embedding comes from a tensor.

    Attributes:
        tensor: its name.
        kind: what it is.
        pooling: over places or tokens.
        normalise: whether the result is scaled to length 1.
        of_places: of tokens, the places of those that are averaged: the first and the number of all; None: each is.
    """

    tensor: str
    kind: Kind
    pooling: Pooling
    normalise: bool
    of_places: tuple[int, int] | None = None

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embedding [B, D]."""
        if self.pooling == "cls":
            values = values[:, 0]
        elif self.pooling == "mean":
            values = values if self.of_places is None else values[:, self.of_places[0] :]
            values = values.mean(self._axes)
        if self.normalise:
            values = values / np.sqrt((values * values).sum(1, keepdims=True) + np.float32(SHORTEST**2))
        return values.astype(np.float32)

    def write(self, parts: Parts, output: str) -> None:
        """Adds the nodes that do so."""
        value = self.tensor
        if self.pooling == "cls":
            value = parts.add("Gather", value, parts.constant(np.asarray(0, np.int64)), axis=1)
        elif self.pooling == "mean":
            if self.of_places is not None:
                value = parts.add("Gather", value, parts.constant(np.arange(*self.of_places, dtype=np.int64)), axis=1)
            value = parts.reduce("ReduceMean", value, list(self._axes), keep=False)
        if self.normalise:
            squares = parts.reduce("ReduceSum", parts.add("Mul", value, value), [1], keep=True)
            squares = parts.add("Add", squares, parts.constant(np.float32(SHORTEST**2)))
            value = parts.add("Div", value, parts.add("Sqrt", squares))
        parts.add("Identity", value, output=output)

    @property
    def _axes(self) -> tuple[int, ...]:
        return {"map_first": (2, 3), "map_last": (1, 2)}.get(self.kind, (1,))


@dataclass(frozen=True)
class Places:
    """How a map of vectors comes from a tensor.

    Attributes:
        tensor: its name.
        kind: what it is: a map, or tokens.
        grid: height and width of the map.
    """

    tensor: str
    kind: Kind
    grid: tuple[int, int]

    def of(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The map [B, h, w, D]."""
        if self.kind == "map_first":
            values = np.moveaxis(values, 1, -1)
        elif self.kind == "tokens":
            values = values[:, -math.prod(self.grid) :].reshape(len(values), *self.grid, values.shape[-1])
        return values.astype(np.float32)

    def write(self, parts: Parts, output: str, num_tokens: int, dim: int) -> None:
        """Adds the nodes that do so."""
        value = self.tensor
        if self.kind == "map_first":
            value = parts.add("Transpose", value, perm=[0, 2, 3, 1])
        elif self.kind == "tokens":
            wanted = np.arange(num_tokens - math.prod(self.grid), num_tokens)
            value = parts.add("Gather", value, parts.constant(wanted.astype(np.int64)), axis=1)
            value = parts.add("Reshape", value, parts.constant(np.array([-1, *self.grid, dim], np.int64)))
        parts.add("Identity", value, output=output)


def kind_of(shape: tuple[int, ...], image: ImageInput | None, channels_last: bool) -> Kind | None:
    """What a tensor of a shape (its rows left out) is; None: nothing that an embedding comes from.

    Args:
        shape: of one row.
        image: the input, if it is one: a map has its aspect ratio.
        channels_last: what the input is, which decides if the aspect ratio does not.
    """
    if len(shape) in (1, 2):
        return "vector" if len(shape) == 1 else "tokens"
    if len(shape) != 3 or image is None:
        return None
    wanted = math.log(image.height / image.width)
    first, last = (abs(math.log(h / w) - wanted) for h, w in (shape[1:], shape[:2]))
    if math.isclose(first, last):
        return "map_last" if channels_last else "map_first"
    return "map_first" if first < last else "map_last"


def grid_of(shape: tuple[int, ...], kind: Kind, image: ImageInput) -> tuple[int, int] | None:
    """Height and width of the map in a tensor of a shape (its rows left out); None: there is none."""
    if kind in ("map_first", "map_last"):
        grid = shape[1:] if kind == "map_first" else shape[:2]
        return (grid[0], grid[1]) if math.prod(grid) > 1 else None
    if kind != "tokens":
        return None
    height, width = image.height, image.width
    sides = (side for side in range(1, min(height, width) + 1) if height % side == 0 and width % side == 0)
    grids = ((height // side, width // side) for side in sides)
    fitting = [one for one in grids if 1 < math.prod(one) <= shape[0] <= math.prod(one) + MOST_TOKENS_BESIDE]
    return max(fitting, default=None)


def places_in(shape: tuple[int, ...], image: ImageInput) -> tuple[int, int] | None:
    """Which of some tokens (rows left out) are of places, as `Pooled` has it; None: all, or it cannot be known.

    It is known where nearly all of them make a grid of the image's shape: what is left stands before it.
    """
    if (grid := grid_of(shape, "tokens", image)) is None:
        return None
    beside = shape[0] - math.prod(grid)
    return (beside, shape[0]) if 0 < FEWEST_PLACES * beside <= math.prod(grid) else None
