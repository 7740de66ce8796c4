"""How large an embedding is, and over how many of its units it is spread: what unit length throws away.

    s(x) = log [ |z|_2, |z|_1 / |z|_2 ]

The score is the Mahalanobis distance of s(x) to the training rows. It has two sides: an embedding that is weaker than
those of training rows, as of noise, scores as high as one that is stronger. Distances of directions have one side, and
a row that lies closer to the middle than in-distribution rows do passes them all.

Sources: Tack et al., CSI, https://arxiv.org/abs/2007.08176 (the norm after contrastive training); Hurley and Rickard,
Comparing measures of sparsity, https://arxiv.org/abs/0811.4706; Nalisnick et al., https://arxiv.org/abs/1906.02994
(typical, not likely).

Shape legend: B rows, D embedding.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from export.detectors.detector import TINY
from export.detectors.distance import Distance


def size_and_spread(embedding_BD: Tensor, shortest: float = TINY) -> Tensor:
    """s(x), float [B, 2]; what is shorter than `shortest` is as long."""
    # In float64, rounded at the end: sums and logarithms of a row differ in their last bit with its place in a batch.
    embedding_BD = embedding_BD.double()
    # clamp_min, not + TINY: the exporter takes an addition of 1e-8 for one of nothing and leaves it out.
    size_B = embedding_BD.square().sum(dim=1).sqrt().clamp_min(shortest)
    # 1 at least, unless the embedding is too short to say
    spread_B = (embedding_BD.abs().sum(dim=1) / size_B).clamp_min(1)
    return torch.stack([size_B, spread_B], dim=1).log().float()


class Magnitude(Distance):
    """The distance of s(x) to the mean of the training rows."""

    name: ClassVar[str] = "magnitude"
    method: ClassVar[str] = "Mahalanobis distance of log [|z|_2, |z|_1 / |z|_2] of the embedding z to the training rows"
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    own_units: ClassVar[bool] = True

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:
        """See `Distance`."""
        (embedding_BD,) = tensors
        return size_and_spread(embedding_BD, shortest)
