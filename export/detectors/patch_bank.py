"""A bank of patches of training rows, and how far each patch of a row lies from the nearest of them.

Distances are Euclidean, over the patches' leading directions. The bank is a coreset: patch after patch is added that
lies farthest from those already there, so that rare but usual places are in it and the many alike are in it once.

|x|^2 + |b|^2 - 2 x.b of patches that are nearly equal is a difference of large numbers. So a product tells which of
some parts of the bank is nearest, and the distances to these few are computed as such (`export.detectors.neighbours`).

Source: Roth et al., PatchCore, https://arxiv.org/abs/2106.08265; the greedy coreset: Sener and Savarese,
https://arxiv.org/abs/1708.00489.

Shape legend: B rows, N training rows, h and w places, D numbers of a patch, P directions of it that are kept, R = B h w
patches, K patches of the bank, S parts of it with C patches each.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from export.detectors.detector import SMALLEST_DEVIATION, TINY, float32
from export.detectors.places import PlaceDetector
from latentserve.inputs import PATCHES

BANK_PATCHES = 2000
BANK_DIM = 64
CANDIDATES = 20_000
"""Patches that the bank is drawn from."""
PARTS = 4
"""Of the bank: of each the nearest is looked at once more, and no more products lie in memory than one part's."""


class PatchBank(PlaceDetector):
    """The distance of each patch to the nearest of the bank."""

    name: ClassVar[str] = "patch_bank"
    method: ClassVar[str] = "distance of the most unusual patch to its nearest neighbour of a bank, by place"
    inputs: ClassVar[tuple[str, ...]] = (PATCHES,)
    mean_D: Tensor
    leading_DP: Tensor
    bank_SCP: Tensor
    half_SC: Tensor

    def __init__(
        self, grid: tuple[int, ...], mean_D: NDArray[Any], leading_DP: NDArray[Any], bank_KP: NDArray[Any]
    ) -> None:
        super().__init__(grid)
        num_parts, dim = min(PARTS, len(bank_KP)), bank_KP.shape[1]
        bank_KP = np.resize(bank_KP, (-(-len(bank_KP) // num_parts) * num_parts, dim))  # some stand there twice
        self.size = float(np.sqrt(np.square(bank_KP).sum(axis=1).mean()))
        self.register_buffer("mean_D", torch.from_numpy(float32(mean_D)))
        self.register_buffer("leading_DP", torch.from_numpy(float32(leading_DP)))
        self.register_buffer("bank_SCP", torch.from_numpy(float32(bank_KP.reshape(num_parts, -1, dim))))
        self.register_buffer("half_SC", (self.bank_SCP.double().square().sum(dim=2) / 2).float())

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """See `PlaceDetector`."""
        (patches_BhwD,) = tensors
        return patches_BhwD

    @classmethod
    def fit_features(cls, x_NhwF: NDArray[np.float32], most_products: int) -> Self:
        """See `PlaceDetector`."""
        _, height, width, dim = x_NhwF.shape
        patches_RD = x_NhwF.reshape(-1, dim)
        drawn_RD = patches_RD[np.random.default_rng(0).permutation(len(patches_RD))[:CANDIDATES]].astype(np.float64)
        mean_D = drawn_RD.mean(axis=0)
        leading_DP = _leading(drawn_RD - mean_D)
        most = max(1, min(BANK_PATCHES, most_products // (height * width * leading_DP.shape[1])))
        smallest = SMALLEST_DEVIATION * float(np.sqrt(np.square(drawn_RD).sum(axis=1).mean())) + TINY
        bank_KP = coreset((drawn_RD - mean_D) @ leading_DP, most, smallest)
        return cls((height, width), mean_D, leading_DP, bank_KP)

    def smallest(self) -> float:
        """See `PlaceDetector`."""
        return SMALLEST_DEVIATION * self.size

    def raw(self, x_BhwF: Tensor) -> Tensor:
        """See `PlaceDetector`."""
        x_RP = (x_BhwF.reshape(-1, x_BhwF.shape[3]) - self.mean_D) @ self.leading_DP
        nearest = []
        for bank_CP, half_C in zip(self.bank_SCP, self.half_SC, strict=True):
            near_R = F.linear(x_RP, bank_CP, -half_C).argmax(dim=1)
            nearest.append((x_RP - bank_CP[near_R]).square().sum(dim=1))
        return torch.stack(nearest).amin(dim=0).sqrt().view(-1, *x_BhwF.shape[1:3])


def coreset(patches_RP: NDArray[np.float64], most: int, smallest: float) -> NDArray[np.float64]:
    """Patches such that every other one is near to one of them: always the farthest is taken next.

    Args:
        patches_RP: to choose from.
        most: to choose.
        smallest: distance below which patches are equal but for rounding.
    """
    x_RP = patches_RP.astype(np.float32)
    squares_R = np.square(x_RP).sum(axis=1)
    nearest_R, chosen = np.full(len(x_RP), np.inf, np.float32), list[int]()
    farthest = int(squares_R.argmin())
    while len(chosen) < most:
        chosen.append(farthest)
        distance_R = squares_R + squares_R[farthest] - 2 * (x_RP @ x_RP[farthest])
        nearest_R = np.minimum(nearest_R, distance_R)
        farthest = int(nearest_R.argmax())
        if nearest_R[farthest] <= smallest**2:
            break
    return patches_RP[chosen]


def _leading(x_RD: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal directions [D, P] in which patches vary most."""
    _, directions_DD = np.linalg.eigh(x_RD.T @ x_RD)  # in ascending order
    leading_DP: NDArray[np.float64] = directions_DD[:, -BANK_DIM:]
    return leading_DP
