"""How badly a model that reconstructs gives each place back.

What is rare in the training rows is not given back. Some places never are, as edges, and are forgiven as much as
in-distribution rows need there (`export.detectors.places`).

Shape legend: B rows, N training rows, H height, W width, C channels, h and w places, F features of a place.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from export.detectors.detector import SMALLEST_DEVIATION, TINY
from export.detectors.places import PlaceDetector
from latentserve.inputs import INPUT
from training.preprocessing import image_from_uint8

LARGEST_GRID = 24
"""Places along a side."""
SMOOTHED = 3
"""Places along a side that errors are averaged over: a fault is larger than one, and noise is not."""


class ReconstructionPlaces(PlaceDetector):
    """The root mean square of what a place and its reconstruction differ by."""

    name: ClassVar[str] = "reconstruction_places"
    method: ClassVar[str] = "reconstruction error of the worst place, over what is usual there"
    inputs: ClassVar[tuple[str, ...]] = (INPUT, "reconstruction")

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """The squared error in cells, [B, h, w, 1]."""
        rows_BHWC, reconstruction_BHWC = tensors
        error_BCHW = (image_from_uint8(rows_BHWC) - reconstruction_BHWC.permute(0, 3, 1, 2)).square()
        error_B1HW = error_BCHW.mean(dim=1, keepdim=True)
        side = -(-max(error_B1HW.shape[2:]) // LARGEST_GRID)
        if side > 1:
            error_B1HW = F.avg_pool2d(error_B1HW, side)
        error_B1HW = F.avg_pool2d(error_B1HW, SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
        return error_B1HW.permute(0, 2, 3, 1).contiguous()

    @classmethod
    def fit_features(cls, x_NhwF: NDArray[np.float32], most_products: int) -> Self:  # noqa: ARG003 (it takes none)
        """See `PlaceDetector`: nothing but a place's mean and deviation is fitted."""
        return cls(x_NhwF.shape[1:3])

    def smallest(self) -> float:
        """See `PlaceDetector`: pixels are between 0 and 1."""
        return SMALLEST_DEVIATION

    def raw(self, x_BhwF: Tensor) -> Tensor:
        """See `PlaceDetector`."""
        return x_BhwF[:, :, :, 0].clamp_min(0).sqrt()  # an error of 0, where all is given back, may be nudged below it
