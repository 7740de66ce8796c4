"""Several detectors as one: their scores become p-values against reference rows, and these are combined.

    weighted: log sum_k weight_k / sqrt(p_k)   Cauchy: asinh of mean_k tan(pi (1/2 - p_k))   Bonferroni: max_k -log p_k

Weights are what detectors see of training rows that were damaged on purpose (`export.detectors.power`); where that was
not measured there is no such column. None has to be a p-value itself: the column is calibrated like any other, which
makes its p-values exact whatever the dependence of the detectors, and whatever the weights. Of the reference rows some
sixty are kept, close to each other where p is small; between two of these p goes on as a line, so that a rounding
difference stays one. Where reference rows are nearer to each other than scores are known, as those of copies are, the
line is drawn out towards lower scores until it is as flat as it must be. A score beyond all goes on as an exponential
tail would, so that OOD rows keep their order.

Sources: Vovk and Wang, Combining p-values via averaging, Biometrika 107 (2020) 791 (means of powers of p: between the
product, which counts all detectors, and the smallest, which counts one); Liu and Xie, Cauchy combination test, J.
American Statistical Association 115 (2020) 393; exponential tails of excesses: Pickands, Annals of Statistics 3 (1975)
119.

Shape legend: B rows, K detectors, M reference rows, Q knots, the reference rows that are kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.detector import ROUNDING, float32

TAIL, TAIL_ROWS = 0.05, 10
"""Share of the reference rows whose excess over the next one sets the tail's scale, and so many at least: of two rows
that lie close to each other by chance any score would be far out (docs/adr/0027)."""
STEEPEST = 1 / 64
"""The resolution of a score moves -log p by this at most. It is less than what one reference row more or less does
where they are few, and in bundles of ordinary data the lines are flatter by themselves."""
LARGEST_SURPRISE = 60.0
"""-log p: e^60 and its reciprocal are float32 numbers."""
KNOT_RATIO = 1.1
"""Some sixty rows are compared with each score, not all 2,000."""
EXACT_PARTS = (
    2.0**24
)  # as float32 has; times the 2,000 reference rows at most: below 2^53, where float64 counts exactly
LARGEST_P = 0.9
"""As p nears 1 tan goes to minus infinity: one detector that is quite sure of a row would outvote all others."""
BONFERRONI = "bonferroni"
BONFERRONI_METHOD = "the smallest p-value of the other detectors, calibrated anew"
CAUCHY = "cauchy"
CAUCHY_METHOD = "Cauchy combination of the p-values of the other detectors, calibrated anew"
WEIGHTED = "weighted"
WEIGHTED_METHOD = (
    "mean of 1 / sqrt(p) of the other detectors, weighted by what each sees of training rows that were damaged on"
    " purpose, calibrated anew"
)
COLUMNS = ((WEIGHTED, WEIGHTED_METHOD), (CAUCHY, CAUCHY_METHOD), (BONFERRONI, BONFERRONI_METHOD))
"""Names and methods, in their order."""
FUSED = tuple(name for name, _ in COLUMNS)


class Fusion(nn.Module):
    """scores [B, K] -> weighted mean if there are weights, Cauchy and Bonferroni: [B, 3] or [B, 2]."""

    weights_K: Tensor | None
    knot_QK: Tensor
    gap_QK: Tensor
    rows_Q1: Tensor
    largest_K: Tensor
    scale_K: Tensor

    def __init__(
        self,
        reference_MK: NDArray[Any],
        resolution_K: NDArray[Any] | None = None,
        weights_K: NDArray[Any] | None = None,
        tail_rows: int = TAIL_ROWS,
    ) -> None:
        """Takes the scores of M rows that the detectors were not fitted on.

        Args:
            reference_MK: the scores.
            resolution_K: how well each detector's are known; default: as well as sums of numbers of size 1.
            weights_K: of the detectors; default: there is no weighted mean.
            tail_rows: that set the tail's scale, at least.

        Raises:
            ValueError: a score is not finite.
        """
        super().__init__()
        if not np.isfinite(reference_MK).all():
            raise ValueError(f"reference: got {int((~np.isfinite(reference_MK)).sum())} scores that are not finite")
        self.num_rows = len(reference_MK)
        descending_MK = -np.sort(-reference_MK, axis=0)
        ranks = knots(self.num_rows)
        if resolution_K is None:
            resolution_K = ROUNDING * np.maximum(1, np.abs(descending_MK).max(axis=0))
        # where knots are equal there is a step; a millionth of the deviation is as steep as float32 can follow
        width_K = np.maximum(resolution_K / STEEPEST, 1e-6 * descending_MK.std(axis=0) + 1e-12)
        knot_QK, gap_QK = spread_out(descending_MK[[rank - 1 for rank in ranks]], ranks, self.num_rows, width_K)
        tail = descending_MK[: max(tail_rows, round(TAIL * self.num_rows))]
        buffers = {
            "knot_QK": knot_QK,
            "gap_QK": gap_QK,
            "rows_Q1": np.diff(ranks, append=self.num_rows + 1)[:, None],  # from this knot on, before the next one
            "largest_K": descending_MK[0],
            # equal scores have no tail: then whatever lies above, and not by rounding, is as far out as can be
            "scale_K": np.maximum((tail - tail[-1]).mean(axis=0) + 1e-12, width_K),
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(float32(array)))
        self.register_buffer("weights_K", None if weights_K is None else torch.from_numpy(weights_K.astype(np.float64)))
        columns = COLUMNS[1:] if weights_K is None else COLUMNS
        self.names, self.methods = tuple(name for name, _ in columns), tuple(method for _, method in columns)

    def forward(self, scores_BK: Tensor) -> Tensor:
        """See the class."""
        # In float64, rounded at the end: exp, log and tan of a row differ in their last bit with its place in a batch.
        surprise_BK = self.surprise(scores_BK)
        angle_BK = math.pi * torch.exp(-surprise_BK)
        # tan(pi (1/2 - p)) = cos(pi p) / sin(pi p)
        mean_B = (angle_BK.cos() / angle_BK.sin()).mean(dim=1)
        # asinh x, written out: ONNX Runtime has no kernel for it on a GPU
        cauchy_B = mean_B.sign() * (mean_B.abs() + (mean_B.square() + 1).sqrt()).log()
        columns = [cauchy_B, surprise_BK.amax(dim=1)]
        if self.weights_K is not None:
            columns.insert(0, (self.weights_K * (surprise_BK / 2).exp()).sum(dim=1).log())
        return torch.stack(columns, dim=1).float()

    def surprise(self, scores_BK: Tensor) -> Tensor:
        """-log p, float64 [B, K], against the reference rows."""
        # #{reference > score}: the rows from a knot on count as the share of its gap that lies above the score
        share_BQK = ((self.knot_QK - scores_BK[:, None]) / self.gap_QK).clamp(0, 1)
        # A sum of whole parts is exact in any order, so that it is the same whatever the batch.
        above_BK = ((share_BQK.double() * EXACT_PARTS).round() * self.rows_Q1).sum(dim=1) / EXACT_PARTS
        beyond_BK = torch.relu(scores_BK - self.largest_K) / self.scale_K
        p_BK = ((above_BK + 1) / (self.num_rows + 1)).clamp_max(LARGEST_P)
        return (beyond_BK.double() - p_BK.log()).clamp_max(LARGEST_SURPRISE)


def spread_out(
    knot_QK: NDArray[Any], ranks: list[int], num_rows: int, width_K: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Knots, and the gap from each to the next, none of them steeper than -log p may be.

    Args:
        knot_QK: descending.
        ranks: of the knots.
        num_rows: that they are of.
        width_K: over which -log p may change by 1.

    Returns:
        Both [Q, K]; as they were where gaps are wide enough.
    """
    # Between two knots p is a line, and -log p steepest at the smaller p: there by (next - rank) / rank over the gap.
    change_Q = np.diff([*ranks, num_rows + 1]) / np.array(ranks)
    knot_QK = knot_QK.copy()
    for i in range(1, len(ranks)):
        knot_QK[i] = np.minimum(knot_QK[i], knot_QK[i - 1] - change_Q[i - 1] * width_K)
    gap_QK = -np.diff(knot_QK, axis=0, append=knot_QK[-1:])
    return knot_QK, np.maximum(gap_QK, change_Q[:, None] * width_K)


def knots(num_rows: int) -> list[int]:
    """Ranks from the highest score on, each by KNOT_RATIO larger than the one before: to these p is exact."""
    ranks = [1]
    while ranks[-1] < num_rows:
        ranks.append(min(num_rows, max(ranks[-1] + 1, int(ranks[-1] * KNOT_RATIO))))
    return ranks
