"""The Mahalanobis distance of features of a row to those of the training rows.

Source: Ledoit and Wolf, J. Multivariate Analysis 88 (2004) 365 (shrinkage).

Shape legend: B rows, N training rows, F features.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.covariance import smallest_deviation, whitening
from export.detectors.detector import SMALLEST_DEVIATION, TINY, Arrays, features_of, float32, shortest_of

SMALLEST_SCALE = 1e-6
COLUMNS_AT_ONCE = 256
"""Of the whitening matrix, which is lower triangular: of a large one nearly half is not multiplied."""


class Distance(nn.Module):
    """The distance of a row's features to the mean of the training rows'; a subclass says which features.

    Attributes:
        own_units: whether features are logarithms, each divided by its standard deviation before shrinking.
        shortest: see `unit`.
    """

    inputs: ClassVar[tuple[str, ...]]
    own_units: ClassVar[bool] = False
    mean_F: Tensor

    def __init__(self, mean_F: NDArray[Any], whiten_FF: NDArray[Any], shortest: float) -> None:
        super().__init__()
        self.shortest = shortest
        self.register_buffer("mean_F", torch.from_numpy(float32(mean_F)))
        self.starts = range(0, len(whiten_FF), COLUMNS_AT_ONCE)
        for start in self.starts:  # a triangle: above these columns there are zeros
            below = whiten_FF[start:, start : start + COLUMNS_AT_ONCE]
            self.register_buffer(f"whiten_{start}", torch.from_numpy(float32(below)))

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:
        """Float [B, F] of what `inputs` names."""
        raise NotImplementedError

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Mean and shrunk covariance of the training rows' features."""
        shortest = shortest_of(cls.inputs, train)
        x_NF = features_of(cls, train, shortest)
        if not cls.own_units:
            return cls(x_NF.mean(axis=0, dtype=np.float64), whitening(x_NF, smallest_deviation(x_NF)), shortest)
        x_NF = x_NF.astype(np.float64)
        # what rounding does to a number it adds to its logarithm, however small that is
        smallest_F = SMALLEST_DEVIATION * np.maximum(1, np.sqrt(np.square(x_NF).mean(axis=0)))
        scale_F = np.maximum(x_NF.std(axis=0) + SMALLEST_SCALE, smallest_F)
        return cls(x_NF.mean(axis=0), whitening(x_NF / scale_F, smallest_F / scale_F) / scale_F[:, None], shortest)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        return self.of(self.features(*tensors, shortest=self.shortest))

    def of(self, x_BF: Tensor) -> Tensor:
        """Scores [B] of features."""
        x_BF = x_BF - self.mean_F
        parts = [x_BF[:, start:] @ self.get_buffer(f"whiten_{start}") for start in self.starts]
        return torch.cat(parts, dim=1).square().sum(dim=1).sqrt()
