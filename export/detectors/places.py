"""What a detector is that looks at places: a map [B, h, w], whose maximum is its score.

A map is made comparable first: of each place the mean that in-distribution rows have there is taken away, and the rest
is divided by their deviation there, lightly smoothed. Without that the maximum of a busy place, as of an edge
that never lies quite the same, would decide for all.

Mean and deviation are of rows that the map was not fitted on: a quarter of the rows, against a fit on the others. The
fit that is kept is on all of them.

Shape legend: B rows, N training rows, h and w places, F features of a place.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from export.detectors.detector import SMALLEST_DEVIATION, TINY, Arrays, batches_of
from latentserve.inputs import INPUT

PLACE_ROWS = 1000
"""Rows that maps are fitted on. Each has hundreds of places."""
PLACE_BYTES = 2**27
"""Of their features: fewer rows where they are more."""
AT_ONCE = 32
HELD_OUT = 4
"""One row of so many tells mean and deviation of a map."""
SMOOTHED = 3
"""Places along a side that variances are averaged over."""
OWN_SHARE = 20
"""A place's own variance counts as many rows as there are, that of all places as so many: with few rows a place's
deviation is hardly known."""


class PlaceDetector(nn.Module):
    """A subclass says which features a place has, and how unusual they are.

    Attributes:
        name: of the column.
        method: how the score is computed, for people.
        inputs: names of the tensors that `forward` takes, in its order.
        shortest: see `OnFeatures`.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    shortest = TINY
    mean_hw: Tensor
    deviation_hw: Tensor

    def __init__(self, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean_hw", torch.zeros(grid))
        self.register_buffer("deviation_hw", torch.ones(grid))

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:
        """Float [B, h, w, F] of what `inputs` names."""
        raise NotImplementedError

    @classmethod
    def fit_features(cls, x_NhwF: NDArray[np.float32], most_products: int) -> Self:
        """Fitted on features of rows, without a place's mean and deviation.

        Args:
            x_NhwF: the features.
            most_products: of numbers that a row may take, about.
        """
        raise NotImplementedError

    def raw(self, x_BhwF: Tensor) -> Tensor:
        """How unusual each place is, [B, h, w], as the method has it."""
        raise NotImplementedError

    def smallest(self) -> float:
        """The smallest deviation of what `raw` returns that is no rounding."""
        raise NotImplementedError

    @classmethod
    def suits(cls, train: Arrays) -> bool:
        """Whether it can be fitted on such rows: there are the tensors, and the rows are images."""
        return train.keys() >= set(cls.inputs) and (INPUT not in train or train[INPUT].ndim == 4)

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Fits it on as many rows as memory should hold."""
        x_NhwF, most = features_of_places(cls, train), products_of(train)
        held = np.zeros(len(x_NhwF), np.bool_)
        held[:: min(HELD_OUT, len(held))] = True
        trial = cls.fit_features(x_NhwF[~held] if not held.all() else x_NhwF, most)
        with torch.no_grad():
            parts = [x_NhwF[held][start : start + AT_ONCE] for start in range(0, int(held.sum()), AT_ONCE)]
            raw_Nhw = torch.cat([trial.raw(torch.from_numpy(part)) for part in parts]).double()
        fitted = cls.fit_features(x_NhwF, most)
        fitted.mean_hw = raw_Nhw.mean(dim=0).float()
        fitted.deviation_hw = _deviation(raw_Nhw, fitted.smallest()).float()
        return fitted

    def map_of(self, x_BhwF: Tensor) -> Tensor:
        """The map of features, [B, h, w]."""
        return (self.raw(x_BhwF) - self.mean_hw) / self.deviation_hw

    def places(self, *tensors: Tensor) -> Tensor:
        """The map, [B, h, w]: deviations above what is usual at a place."""
        return self.map_of(self.features(*tensors, shortest=self.shortest))

    def of(self, x_BhwF: Tensor) -> Tensor:
        """Scores [B] of features."""
        return highest(self.map_of(x_BhwF))

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        return highest(self.places(*tensors))


def highest(map_Bhw: Tensor) -> Tensor:
    """The score of a map: its maximum, [B]."""
    return map_Bhw.flatten(1).amax(dim=1)


def features_of_places(kind: type[PlaceDetector], train: Arrays) -> NDArray[np.float32]:
    """Features [N, h, w, F] of the first rows, which were drawn at random, as many as memory should hold."""
    num_rows = len(train[kind.inputs[0]])
    some = {name: train[name][: min(num_rows, PLACE_ROWS)] for name in kind.inputs}
    parts, num_done = [], 0
    for rows in batches_of(some, kind.inputs):
        parts.append(kind.features(*rows).numpy())
        num_done += len(parts[-1])
        if num_done * parts[-1][0].nbytes >= PLACE_BYTES:
            break
    features_NhwF: NDArray[np.float32] = np.concatenate(parts)
    return features_NhwF[: max(2, PLACE_BYTES // features_NhwF[0].nbytes)]


PRODUCTS_PER_PIXEL = 2000
"""As a small encoder's: `small` takes 2,200 of each pixel and colour at 96 pixels."""
FEWEST_PRODUCTS = 2**20


def products_of(train: Arrays) -> int:
    """How many products a map of such rows may take."""
    if INPUT not in train:
        return 16 * FEWEST_PRODUCTS
    height, width = train[INPUT].shape[1:3]
    return max(FEWEST_PRODUCTS, PRODUCTS_PER_PIXEL * int(height) * int(width))


def smoothed(x_hw: Tensor) -> Tensor:
    """Means over the places around; at the border over those that there are."""
    return F.avg_pool2d(x_hw[None, None], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)[0, 0]


def _deviation(raw_Nhw: Tensor, smallest: float) -> Tensor:
    """Of each place, drawn towards that of all places where rows are few."""
    own_hw = (raw_Nhw - raw_Nhw.mean(dim=0)).square().mean(dim=0)
    num = len(raw_Nhw)
    around_hw = torch.maximum(own_hw, smoothed(own_hw))  # a busy place among quiet ones stays as busy as it is
    variance_hw = (num * around_hw + OWN_SHARE * own_hw.mean()) / (num + OWN_SHARE)
    size: Any = raw_Nhw.square().mean().sqrt()
    return variance_hw.sqrt().clamp_min(max(smallest, SMALLEST_DEVIATION * float(size), TINY))
