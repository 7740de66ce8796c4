"""The distance to the nearest training rows, whose embeddings lie in the graph.

Source: Sun et al., Out-of-distribution detection with deep nearest neighbors, https://arxiv.org/abs/2204.06507:
embeddings of unit length, the distance to the k-th neighbour.

Shape legend: B rows, N rows of the bank, D embedding.
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
BANK_BYTES = 2**24
BANK_ROWS = 10_000
"""What a bundle may carry, and a CPU compare with each row."""


class Neighbours(nn.Module):
    """1 - cosine similarity to the k-th nearest row of the bank: half the squared distance on the unit sphere."""

    name: ClassVar[str] = "knn"
    method: ClassVar[str] = f"1 - cosine similarity of the embedding to its {K}th nearest neighbour of a bank"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    bank_DN: Tensor

    def __init__(self, bank_ND: NDArray[Any]) -> None:
        super().__init__()
        self.register_buffer("bank_DN", torch.from_numpy(float32(bank_ND.T)))

    @staticmethod
    def features(*tensors: Tensor) -> Tensor:
        """What is compared, float [B, D]; see `inputs` for another."""
        (embedding_BD,) = tensors
        return embedding_BD

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Keeps as many training rows as fit, drawn evenly."""
        x_ND = features_of(cls, train)
        num_rows = min(len(x_ND), BANK_ROWS, max(K, BANK_BYTES // (4 * x_ND.shape[1])))
        chosen = np.random.default_rng(0).permutation(len(x_ND))[:num_rows]
        return cls(unit(torch.from_numpy(x_ND[chosen])).numpy())

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        similarity_BN = unit(self.features(*tensors)) @ self.bank_DN
        return 1 - similarity_BN.topk(K, dim=1).values[:, K - 1]
