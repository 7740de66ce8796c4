"""Detectors that look at the input itself: what an encoder was taught to ignore, or never had to look at.

An encoder trained to call two crops of a photograph the same thing gives noise, digits and drawings embeddings close to
the middle of its training rows. They look like no training row all the same, and it takes little to see that: nearest
pixels are a baseline that trained encoders often miss. What a broken camera or microphone does shows here first.

Shape legend: B rows, F features.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from export.detectors.coarse import coarse
from export.detectors.detector import TINY, unit
from export.detectors.distance import Distance
from export.detectors.edges import edges_of
from export.detectors.neighbours import K, Neighbours
from latentserve.inputs import INPUT

FAINT = 1e-4
"""An edge that counts as hardly any: a hundredth of what a step from black to white gives."""


class InputMahalanobis(Distance):
    """The distance of the coarse input to the mean of the training rows; of images their edges' too."""

    name: ClassVar[str] = "input_mahalanobis"
    method: ClassVar[str] = "Mahalanobis distance of the input (coarse pixels and edges, or bands) to the training rows"
    inputs: ClassVar[tuple[str, ...]] = (INPUT,)

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """Pixels and edges, each part of unit length; the roots of edges, whose deviation grows with their size."""
        (rows,) = tensors
        if rows.dtype == torch.int16:
            return coarse(rows)
        return torch.cat([unit(coarse(rows)), unit((edges_of(rows) + FAINT).sqrt())], dim=1)


class InputNeighbours(Neighbours):
    """1 - cosine similarity of the coarse input to that of the k-th nearest training row; 1 for an image all black."""

    name: ClassVar[str] = "input_knn"
    method: ClassVar[str] = (
        f"1 - cosine similarity of the input, coarsely (pixels or bands), to its {K}th nearest neighbour"
    )
    inputs: ClassVar[tuple[str, ...]] = (INPUT,)

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (directions know it)
        """See `OnDirections`."""
        return coarse(*tensors)


class EdgeNeighbours(Neighbours):
    """1 - cosine similarity of the input's edges to those of the k-th nearest training row; 1 where there are none."""

    name: ClassVar[str] = "edge_knn"
    method: ClassVar[str] = f"1 - cosine similarity of the input's edges, by direction, to its {K}th nearest neighbour"
    inputs: ClassVar[tuple[str, ...]] = (INPUT,)

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (directions know it)
        """See `OnDirections`."""
        return edges_of(*tensors)
