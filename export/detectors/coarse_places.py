"""Edges and brightness of each place, as far as all other places do not tell them.

Coarse images of usual parts follow each other closely: where one is bright on the left so is it on the right. A
Gaussian of all places at once knows that. What is left of a place given all others is, with the precision P,

    r_p = (P_pp)^-1/2 [P (x - m)]_p        x: all features of all places, m: their mean

which has unit covariance for rows of that Gaussian. The map is the root mean square of r_p over a place's features.
The whole distance, `input_mahalanobis`, is large for rows that are a little odd everywhere; this is for what is odd
somewhere.

Source: conditional distributions of a Gaussian by its precision: Rue and Held, Gaussian Markov Random Fields (2005),
theorem 2.3.

Shape legend: B rows, N training rows, H height, W width, C channels, h and w places, F features of a place, Q = h w F.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from export.detectors.detector import SMALLEST_DEVIATION, TINY, float32
from export.detectors.edges import edges
from export.detectors.inputs import FAINT
from export.detectors.mahalanobis import smallest_deviation, unit, whitening
from export.detectors.places import PlaceDetector
from latentserve.inputs import INPUT
from training.preprocessing import image_from_uint8

CELLS = 10
"""Along the larger side, at most: with 9 features a place 900 numbers, whose covariance some hundred rows tell."""
FINER = 4
"""Pixels along the side of a cell that edges are looked for in, at least where the image has so many."""


def cell_sides(height: int, width: int) -> tuple[int, int]:
    """Pixels that one of the reduced image is made of, and pixels of that one along a cell."""
    cell = -(-max(height, width) // CELLS)
    finer = max(1, cell // FINER)
    return finer, -(-cell // finer)


class CoarsePlaces(PlaceDetector):
    """What edges and brightness of a place are, given those of all other places."""

    name: ClassVar[str] = "coarse_places"
    method: ClassVar[str] = "edges and brightness of the most unusual place given all other places (Gaussian), by place"
    inputs: ClassVar[tuple[str, ...]] = (INPUT,)
    mean_Q: Tensor
    residual_QQ: Tensor

    def __init__(self, grid: tuple[int, ...], mean_Q: NDArray[np.float64], residual_QQ: NDArray[np.float64]) -> None:
        super().__init__(grid)
        self.register_buffer("mean_Q", torch.from_numpy(float32(mean_Q)))
        self.register_buffer("residual_QQ", torch.from_numpy(float32(residual_QQ)))

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """Brightness and the roots of edges in cells, [B, h, w, 9], each part of all places of length 1."""
        (rows_BHWC,) = tensors
        grey_B1HW = image_from_uint8(rows_BHWC).mean(dim=1, keepdim=True)
        finer, cell = cell_sides(*grey_B1HW.shape[2:])
        if finer > 1:
            grey_B1HW = F.avg_pool2d(grey_B1HW, finer)
        edges_BOHW = edges(F.pad(grey_B1HW, (1, 1, 1, 1), mode="replicate"))
        parts = [grey_B1HW, edges_BOHW]
        if cell > 1:
            parts = [F.avg_pool2d(part, cell) for part in parts]
        parts = [parts[0], (parts[1] + FAINT).sqrt()]
        scaled = [unit(part.flatten(1)).view(part.shape) for part in parts]
        return torch.cat(scaled, dim=1).permute(0, 2, 3, 1).contiguous()

    @classmethod
    def fit_features(cls, x_NhwF: NDArray[np.float32], most_products: int) -> Self:  # noqa: ARG003 (it takes few)
        """See `PlaceDetector`."""
        num_rows, *grid, dim = x_NhwF.shape
        x_NQ = x_NhwF.reshape(num_rows, -1).astype(np.float64)
        whiten_QQ = whitening(x_NQ, smallest_deviation(x_NQ))
        precision_QQ = whiten_QQ @ whiten_QQ.T
        residual_QQ = np.empty_like(precision_QQ)
        for start in range(0, len(precision_QQ), dim):
            own = slice(start, start + dim)
            root_FF = np.linalg.cholesky(precision_QQ[own, own])
            residual_QQ[:, own] = np.linalg.solve(root_FF, precision_QQ[own]).T
        return cls(tuple(grid), x_NQ.mean(axis=0), residual_QQ)

    def smallest(self) -> float:
        """See `PlaceDetector`: residuals have deviations of 1."""
        return SMALLEST_DEVIATION

    def raw(self, x_BhwF: Tensor) -> Tensor:
        """See `PlaceDetector`."""
        residual_BQ = (x_BhwF.flatten(1) - self.mean_Q) @ self.residual_QQ
        return residual_BQ.view(-1, *x_BhwF.shape[1:]).square().mean(dim=3).sqrt()
