"""Several detectors as one: their scores become p-values against reference rows, and these are combined.

    Bonferroni: max_k -log p_k        Cauchy: asinh of mean_k tan(pi (1/2 - p_k))

Neither has to be a p-value itself: the column is calibrated like any other, which makes its p-values exact whatever
the dependence of the detectors. Between two reference rows p goes on as a line, so that a rounding difference stays
one; a score beyond all of them goes on as an exponential tail would, so that strange rows keep their order.

Sources: Liu and Xie, Cauchy combination test, J. American Statistical Association 115 (2020) 393; exponential tails of
excesses: Pickands, Annals of Statistics 3 (1975) 119.

Shape legend: B rows, K detectors, M reference rows.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.detector import float32

TAIL = 0.05
"""Share of the reference rows whose excess over the next one sets the tail's scale."""
LARGEST_SURPRISE = 60.0
"""-log p: e^60 and its reciprocal are float32 numbers."""
EXACT_PARTS = 1024  # times the 2,000 reference rows at most: still below 2^24, where float32 counts exactly
LARGEST_P = 0.9
"""As p nears 1 tan goes to minus infinity: one detector that is quite sure of a row would outvote all others."""
BONFERRONI = "bonferroni"
BONFERRONI_METHOD = "the smallest p-value of the other detectors, calibrated anew"
CAUCHY = "cauchy"
CAUCHY_METHOD = "Cauchy combination of the p-values of the other detectors, calibrated anew"


class Fusion(nn.Module):
    """scores [B, K] -> Cauchy and Bonferroni [B, 2]."""

    names: ClassVar[tuple[str, ...]] = (CAUCHY, BONFERRONI)
    methods: ClassVar[tuple[str, ...]] = (CAUCHY_METHOD, BONFERRONI_METHOD)
    reference_MK: Tensor
    gap_MK: Tensor
    largest_K: Tensor
    scale_K: Tensor

    def __init__(self, reference_MK: NDArray[Any]) -> None:
        """Takes the scores of M rows that the detectors were not fitted on.

        Raises:
            ValueError: a score is not finite.
        """
        super().__init__()
        if not np.isfinite(reference_MK).all():
            raise ValueError(f"reference: got {int((~np.isfinite(reference_MK)).sum())} scores that are not finite")
        ordered_MK = np.sort(reference_MK, axis=0)
        tail = ordered_MK[-max(2, round(TAIL * len(ordered_MK))) :]
        gap_MK = np.diff(ordered_MK, axis=0, prepend=ordered_MK[:1])
        # where rows are equal there is a step; a millionth of the spread is as steep as float32 can follow
        steepest_K = 1e-6 * ordered_MK.std(axis=0) + 1e-12
        self.register_buffer("reference_MK", torch.from_numpy(float32(ordered_MK)))
        self.register_buffer("gap_MK", torch.from_numpy(float32(np.maximum(gap_MK, steepest_K))))
        self.register_buffer("largest_K", torch.from_numpy(float32(ordered_MK[-1])))
        # equal scores have no tail: then whatever lies above is as strange as can be
        self.register_buffer("scale_K", torch.from_numpy(float32((tail - tail[0]).mean(axis=0) + 1e-12)))

    def forward(self, scores_BK: Tensor) -> Tensor:
        """See the class."""
        # In float64, rounded at the end: exp, log and tan of a row differ in their last bit with its place in a batch.
        surprise_BK = self.surprise(scores_BK)
        angle_BK = math.pi * torch.exp(-surprise_BK)
        # tan(pi (1/2 - p)) = cos(pi p) / sin(pi p)
        cauchy_B = torch.asinh((angle_BK.cos() / angle_BK.sin()).mean(dim=1).float())
        return torch.stack([cauchy_B, surprise_BK.amax(dim=1).float()], dim=1)

    def surprise(self, scores_BK: Tensor) -> Tensor:
        """-log p, float64 [B, K], against the reference rows."""
        # #{reference >= score}, where a row counts as the share of its gap that lies above the score
        share_BMK = ((self.reference_MK - scores_BK[:, None]) / self.gap_MK).clamp(0, 1)
        # A sum of 1,024ths is exact in any order, so that it is the same whatever the batch.
        at_least_BK = ((share_BMK * EXACT_PARTS).round() / EXACT_PARTS).sum(dim=1)
        beyond_BK = torch.relu(scores_BK - self.largest_K) / self.scale_K
        p_BK = ((at_least_BK + 1) / (len(self.reference_MK) + 1)).clamp_max(LARGEST_P)
        return (beyond_BK.double() - p_BK.double().log()).clamp_max(LARGEST_SURPRISE)
