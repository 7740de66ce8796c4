"""How unusual each place is, given all other places of the same image.

Places of in-distribution images follow each other closely: where such a part is bright, rough or turned on the left, so
it is on the right. A Gaussian of all places at once knows that. What is left of a place p given all others is, with the
precision P,

    r_p = L_p^-1 [P (x - m)]_p,   L_p L_p^T = P_pp           x: all features of all places, m: their mean

which has unit covariance for rows of that Gaussian. The map is the root mean square of r_p over a place's features. It
is linear in x: one matrix, whatever the number of training rows.

What all images differ in, light or how a surface was ground, drowns a place's own Gaussian and its nearest neighbour in
a bank; here the rest of the image has told it already (docs/adr/0024).

Source: conditional distributions of a Gaussian by its precision: Rue and Held, Gaussian Markov Random Fields (2005),
theorem 2.3; the Gaussian of patches is that of Defard et al., PaDiM, https://arxiv.org/abs/2011.08785, which has one
for each place and none between places.

Shape legend: B rows, N training rows, h and w places, D numbers of a place, F features of a place, Q = h w F.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from export.detectors.covariance import smallest_deviation, whitening
from export.detectors.detector import SMALLEST_DEVIATION, TINY, float32, unit
from export.detectors.edges import edges
from export.detectors.inputs import FAINT
from export.detectors.places import PlaceDetector
from latentserve.inputs import INPUT, PATCHES
from training.preprocessing import image_from_uint8

LARGEST_GRID = 10
"""Places along a side."""
MOST_FEATURES = 800
"""Of all places: a covariance that some hundred rows tell, and a matrix of 2.5 MB."""
FINER = 4
"""Pixels along the side of a cell that edges are looked for in, at least where the image has so many."""


class GivenOthers(PlaceDetector):
    """A subclass says which features."""

    mean_Q: Tensor
    residual_QQ: Tensor

    def __init__(self, grid: tuple[int, ...], mean_Q: NDArray[Any], residual_QQ: NDArray[Any]) -> None:
        super().__init__(grid)
        self.register_buffer("mean_Q", torch.from_numpy(float32(mean_Q)))
        self.register_buffer("residual_QQ", torch.from_numpy(float32(residual_QQ)))

    @classmethod
    def fit_features(cls, x_NhwF: NDArray[np.float32], most_products: int) -> Self:  # noqa: ARG003 (it takes few)
        """See `PlaceDetector`."""
        x_NQ = x_NhwF.reshape(len(x_NhwF), -1).astype(np.float64)
        return cls(x_NhwF.shape[1:3], x_NQ.mean(axis=0), residual(x_NQ, x_NhwF.shape[3]))

    def smallest(self) -> float:
        """See `PlaceDetector`: residuals have deviations of 1."""
        return SMALLEST_DEVIATION

    def raw(self, x_BhwF: Tensor) -> Tensor:
        """See `PlaceDetector`."""
        residual_BQ = (x_BhwF.flatten(1) - self.mean_Q) @ self.residual_QQ
        dim = residual_BQ.shape[1] // self.mean_hw.numel()
        return residual_BQ.view(-1, *self.mean_hw.shape, dim).square().mean(dim=3).sqrt()


def residual(x_NQ: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    """The matrix [Q, Q] that makes what is left of each place, of `dim` features, of rows without their mean."""
    whiten_QQ = whitening(x_NQ, smallest_deviation(x_NQ))
    precision_QQ = whiten_QQ @ whiten_QQ.T
    residual_QQ = np.empty_like(precision_QQ)
    for start in range(0, len(precision_QQ), dim):
        own = slice(start, start + dim)
        root_FF = np.linalg.cholesky(precision_QQ[own, own])
        residual_QQ[:, own] = np.linalg.solve(root_FF, precision_QQ[own]).T
    return residual_QQ


class CoarsePlaces(GivenOthers):
    """What edges and brightness of a place are, given those of all other places."""

    name: ClassVar[str] = "coarse_places"
    method: ClassVar[str] = "edges and brightness of the most unusual place, given those of all other places (Gaussian)"
    inputs: ClassVar[tuple[str, ...]] = (INPUT,)

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """Brightness and the roots of edges in cells, [B, h, w, 9], each part of all places of length 1."""
        (rows_BHWC,) = tensors
        grey_B1HW = image_from_uint8(rows_BHWC).mean(dim=1, keepdim=True)
        cell = -(-max(grey_B1HW.shape[2:]) // LARGEST_GRID)
        finer = max(1, cell // FINER)
        if finer > 1:
            grey_B1HW = F.avg_pool2d(grey_B1HW, finer)
        edges_BOHW = edges(F.pad(grey_B1HW, (1, 1, 1, 1), mode="replicate"))
        parts = [_in_cells(part, -(-cell // finer)) for part in (grey_B1HW, edges_BOHW)]
        scaled = [unit(part.flatten(1)).view(part.shape) for part in (parts[0], (parts[1] + FAINT).sqrt())]
        return torch.cat(scaled, dim=1).permute(0, 2, 3, 1).contiguous()


class PatchesGivenOthers(GivenOthers):
    """What the encoder sees in a place, given what it sees in all other places."""

    name: ClassVar[str] = "patch_places"
    method: ClassVar[str] = "features of the most unusual patch, given those of all other patches (Gaussian)"
    inputs: ClassVar[tuple[str, ...]] = (PATCHES,)
    centre_D: Tensor
    leading_DF: Tensor

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """Means over neighbouring patches, [B, h, w, D]."""
        (patches_BhwD,) = tensors
        side = -(-max(patches_BhwD.shape[1:3]) // LARGEST_GRID)
        return _in_cells(patches_BhwD.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1).contiguous()

    @classmethod
    def fit_features(cls, x_NhwF: NDArray[np.float32], most_products: int) -> Self:
        """See `PlaceDetector`."""
        num_rows, height, width, dim = x_NhwF.shape
        x_RD = x_NhwF.reshape(-1, dim).astype(np.float64)
        centre_D = x_RD.mean(axis=0)
        leading_DF = _leading(x_RD, max(1, min(dim, MOST_FEATURES // (height * width))))
        projected_RF = (x_RD - centre_D) @ leading_DF
        fitted = super().fit_features(projected_RF.reshape(num_rows, height, width, -1), most_products)
        fitted.register_buffer("centre_D", torch.from_numpy(float32(centre_D)))
        fitted.register_buffer("leading_DF", torch.from_numpy(float32(leading_DF)))
        return fitted

    def raw(self, x_BhwF: Tensor) -> Tensor:
        """See `PlaceDetector`."""
        return super().raw((x_BhwF - self.centre_D) @ self.leading_DF)


def _in_cells(x_BCHW: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(x_BCHW, side) if side > 1 else x_BCHW


def _leading(x_RD: NDArray[np.float64], num: int) -> NDArray[np.float64]:
    """The directions [D, F] in which patches vary most, each divided by their deviation there."""
    centred_RD = x_RD - x_RD.mean(axis=0)
    variance_D, directions_DD = np.linalg.eigh(centred_RD.T @ centred_RD / len(x_RD))  # in ascending order
    smallest = SMALLEST_DEVIATION * float(np.sqrt(np.square(x_RD).sum(axis=1).mean())) + TINY
    deviation_F = np.sqrt(variance_D[-num:].clip(smallest**2))
    leading_DF: NDArray[np.float64] = directions_DD[:, -num:] / deviation_F
    return leading_DF
