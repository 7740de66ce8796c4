"""The distance to the nearest training rows, whose embeddings lie in the graph.

Source: Sun et al., Out-of-distribution detection with deep nearest neighbors, https://arxiv.org/abs/2204.06507:
embeddings of unit length, the distance to the k-th neighbour.

1 - cosine of two rows that are nearly equal is a difference of numbers near 1, of which float32 knows seven digits: of
a row that lies in the bank it is 6e-8, -1e-7 or 2e-7, as the library pleases. With two rows x and b, where they lie
along P directions and how far outside of them (`export.detectors.directions`),

    1 - x.b = (|y_x - y_b|^2 + outside_x + outside_b + (1 - |x|^2) + (1 - |b|^2)) / 2

where the first term keeps its digits however near they are, and the others are computed as such; what lies outside is
taken to be at right angles. Which rows of the bank are nearest a product of all of them says: it is as exact as rows
are near to each other. Along fewer directions it would not be: a row of a rare kind, which has its length beyond these,
is then taken for a far one (docs/adr/0035).

Shape legend: B rows, N rows of the bank, P directions, C candidates.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from export.detectors.directions import Directions, OnDirections, Placed

K = 5
"""Small, since banks are: the paper's 50 is of 50,000 rows."""
CANDIDATES = 2 * K
"""Twice as many: products that differ by their last digit may have the wrong order."""
BANK_ROWS = 5000
BANK_DIM = 128
"""So many numbers of a row a bundle may carry, and a CPU compare with each row; what a row has beyond lies outside."""


class Neighbours(OnDirections):
    """1 - cosine similarity to the k-th nearest row of the bank: half the squared distance on the unit sphere."""

    name: ClassVar[str] = "knn"
    method: ClassVar[str] = f"1 - cosine similarity of the embedding to its {K}th nearest neighbour of a bank"
    most: ClassVar[int] = BANK_DIM
    bank_NP: Tensor
    outside_N: Tensor
    offset_N: Tensor

    def __init__(self, directions: Directions, bank: Placed) -> None:
        super().__init__(directions)
        y_NP, outside_N = along(bank)
        self.register_buffer("bank_NP", y_NP.float().contiguous())
        self.register_buffer("outside_N", outside_N.float())
        self.register_buffer("offset_N", -(y_NP.square().sum(dim=1) + outside_N).float() / 2)

    @classmethod
    def drawn(cls, num_rows: int) -> NDArray[np.int64]:
        """As many as fit, drawn evenly."""
        return np.random.default_rng(0).permutation(num_rows)[:BANK_ROWS]

    @classmethod
    def fit_placed(cls, directions: Directions, train: Placed) -> Self:
        """See `OnDirections`."""
        return cls(directions, train)

    def of_placed(self, rows: Placed) -> Tensor:
        """See `OnDirections`."""
        y_BP, outside_B = along(rows)
        near_BN = F.linear(y_BP, self.bank_NP, self.offset_N)  # half the squared distances, but for what all have
        candidates_BC = near_BN.topk(min(CANDIDATES, near_BN.shape[1]), dim=1).indices
        bank_BCP = self.bank_NP[candidates_BC]
        squares_BC = (y_BP[:, None] - bank_BCP).square().sum(dim=2) + self.outside_N[candidates_BC]
        kth = min(K, squares_BC.shape[1])
        return 0.5 * (squares_BC.topk(kth, dim=1, largest=False).values[:, kth - 1] + outside_B)


def along(rows: Placed) -> tuple[Tensor, Tensor]:
    """Rows along the directions of a bank, [B, P], and the squares that similarities do not see there, [B]."""
    y_BP, outside_B, missing_B = rows
    inside_BP, beyond = y_BP[:, :BANK_DIM], y_BP[:, BANK_DIM:]
    outside_B = outside_B + missing_B
    return inside_BP, outside_B + beyond.square().sum(dim=1) if beyond.shape[1] else outside_B
