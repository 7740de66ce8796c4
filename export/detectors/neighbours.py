"""The distance to the nearest training rows, whose embeddings lie in the graph.

Source: Sun et al., Out-of-distribution detection with deep nearest neighbors, https://arxiv.org/abs/2204.06507:
embeddings of unit length, the distance to the k-th neighbour.

1 - cosine of two rows that are nearly equal is a difference of numbers near 1, of which float32 knows seven digits: of
a row that lies in the bank it is 6e-8, -1e-7 or 2e-7, as the library pleases. With a row x and one b of the bank, cut
to P directions of them,

    1 - x.b = (|x - b|^2 + (1 - |x|^2) + (1 - |b|^2)) / 2

where the first term keeps its digits however near they are, and the other two are what lies outside the P directions,
computed as such. Which rows of the bank are nearest a product of all of them says, with the bank's mean taken away: it
is as exact as rows are near to each other.

Shape legend: B rows, N rows of the bank, D embedding, P directions of it that are kept, C candidates.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.detector import TINY, Arrays, features_of, float32, shortest_of
from export.detectors.mahalanobis import unit

K = 5
"""Small, since banks are: the paper's 50 is of 50,000 rows."""
CANDIDATES = 2 * K
"""Twice as many: products that differ by their last digit may have the wrong order."""
BANK_ROWS = 5000
BANK_DIM = 128
"""So many numbers a bundle may carry, and a CPU compare with each row."""


class Neighbours(nn.Module):
    """1 - cosine similarity to the k-th nearest row of the bank: half the squared distance on the unit sphere."""

    name: ClassVar[str] = "knn"
    method: ClassVar[str] = f"1 - cosine similarity of the embedding to its {K}th nearest neighbour of a bank"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    leading_DP: Tensor | None
    mean_P: Tensor
    bank_PN: Tensor
    outside_N: Tensor
    offset_N: Tensor

    def __init__(self, bank_ND: NDArray[Any], shortest: float = TINY) -> None:
        """Takes rows of length 1, or shorter if they are too short to have a direction."""
        super().__init__()
        self.shortest = shortest
        bank_ND = bank_ND.astype(np.float64)
        self.register_buffer("leading_DP", None)
        if bank_ND.shape[1] > BANK_DIM:
            leading_DP = leading_directions(bank_ND)
            self.leading_DP = torch.from_numpy(float32(leading_DP))
            bank_ND = bank_ND @ leading_DP
        outside_N = (1 - np.square(bank_ND).sum(axis=1)).clip(0, 1)
        mean_P = float32(bank_ND.mean(axis=0))
        bank_ND = bank_ND - mean_P
        self.register_buffer("mean_P", torch.from_numpy(mean_P))
        self.register_buffer("bank_PN", torch.from_numpy(float32(bank_ND.T)))
        self.register_buffer("outside_N", torch.from_numpy(float32(outside_N)))
        self.register_buffer("offset_N", torch.from_numpy(float32((np.square(bank_ND).sum(axis=1) + outside_N) / 2)))

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (of embeddings)
        """What is compared, float [B, D]; see `inputs` for another."""
        (embedding_BD,) = tensors
        return embedding_BD

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Keeps as many training rows as fit, drawn evenly."""
        shortest, num_rows = shortest_of(cls.inputs, train), len(train[cls.inputs[0]])
        chosen = np.random.default_rng(0).permutation(num_rows)[:BANK_ROWS]
        bank_ND = features_of(cls, {name: train[name][chosen] for name in cls.inputs})
        return cls(unit(torch.from_numpy(bank_ND).double(), shortest).numpy(), shortest)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        return self.of(self.features(*tensors))

    def of(self, x_BD: Tensor) -> Tensor:
        """Scores [B] of features."""
        length_B: Tensor = torch.linalg.vector_norm(x_BD, dim=1)
        outside_B = 1 - (length_B / self.shortest).clamp_max(1).square()  # 0, or 1 of a row of zeros
        x_BP = unit(x_BD, self.shortest)
        if self.leading_DP is not None:
            x_BD, x_BP = x_BP, x_BP @ self.leading_DP
            outside_B = outside_B + (x_BD - x_BP @ self.leading_DP.T).square().sum(dim=1)
        x_BP = x_BP - self.mean_P
        near_BN = x_BP @ self.bank_PN - self.offset_N  # half the squared distances, but for what all have in common
        candidates_BC = near_BN.topk(min(CANDIDATES, near_BN.shape[1]), dim=1).indices
        bank_BCP = self.bank_PN[:, candidates_BC].permute(1, 2, 0)
        squares_BC = (x_BP[:, None] - bank_BCP).square().sum(dim=2) + self.outside_N[candidates_BC]
        return 0.5 * (squares_BC.topk(K, dim=1, largest=False).values[:, K - 1] + outside_B)


def leading_directions(bank_ND: NDArray[Any]) -> NDArray[np.float64]:
    """The P directions, orthonormal [D, P], in which rows of the bank are longest.

    A similarity to a row of the bank is a sum over directions, and what lies outside the bank's adds nothing to it.
    """
    x_ND = bank_ND.astype(np.float64)
    _, directions_DD = np.linalg.eigh(x_ND.T @ x_ND)  # in ascending order
    leading_DP: NDArray[np.float64] = directions_DD[:, -BANK_DIM:]
    return leading_DP
