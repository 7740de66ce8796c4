"""The distance to the nearest training rows, whose embeddings lie in the graph.

Source: Sun et al., Out-of-distribution detection with deep nearest neighbors, https://arxiv.org/abs/2204.06507:
embeddings of unit length, the distance to the k-th neighbour.

Shape legend: B rows, N rows of the bank, D embedding, P directions of it that are kept.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.detector import Arrays, features_of, float32
from export.detectors.mahalanobis import unit

K = 5
"""Small, since banks are: the paper's 50 is of 50,000 rows."""
BANK_ROWS = 5000
BANK_DIM = 128
"""What a bundle may carry, and a CPU compare with each row."""


class Neighbours(nn.Module):
    """1 - cosine similarity to the k-th nearest row of the bank: half the squared distance on the unit sphere."""

    name: ClassVar[str] = "knn"
    method: ClassVar[str] = f"1 - cosine similarity of the embedding to its {K}th nearest neighbour of a bank"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    leading_DP: Tensor | None
    bank_PN: Tensor

    def __init__(self, bank_ND: NDArray[Any]) -> None:
        super().__init__()
        self.register_buffer("leading_DP", None)
        if bank_ND.shape[1] > BANK_DIM:
            leading_DP = leading_directions(bank_ND)
            self.leading_DP = torch.from_numpy(float32(leading_DP))
            bank_ND = bank_ND @ leading_DP
        self.register_buffer("bank_PN", torch.from_numpy(float32(bank_ND.T)))

    @staticmethod
    def features(*tensors: Tensor) -> Tensor:
        """What is compared, float [B, D]; see `inputs` for another."""
        (embedding_BD,) = tensors
        return embedding_BD

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Keeps as many training rows as fit, drawn evenly."""
        x_ND = features_of(cls, train)
        chosen = np.random.default_rng(0).permutation(len(x_ND))[:BANK_ROWS]
        return cls(unit(torch.from_numpy(x_ND[chosen])).numpy())

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        x_BP = unit(self.features(*tensors))
        if self.leading_DP is not None:
            x_BP = x_BP @ self.leading_DP
        return 1 - (x_BP @ self.bank_PN).topk(K, dim=1).values[:, K - 1]


def leading_directions(bank_ND: NDArray[Any]) -> NDArray[np.float64]:
    """The P directions, orthonormal [D, P], in which rows of the bank are longest.

    A similarity to a row of the bank is a sum over directions, and what lies outside the bank's adds nothing to it.
    """
    x_ND = bank_ND.astype(np.float64)
    _, directions_DD = np.linalg.eigh(x_ND.T @ x_ND)  # in ascending order
    leading_DP: NDArray[np.float64] = directions_DD[:, -BANK_DIM:]
    return leading_DP
