"""How well scores are known, and scores that are flat where rows differ by no more than that.

An encoder gives a copy of a picture the same embedding but for rounding, and a frozen camera gives nothing else. Half
of all p-values may then hang on the last digit of one score: on another CPU it is above its copies' scores, not equal
to them. So detectors score the reference rows a second time, their tensors moved by as much as rounding may move
them, and where more rows than chance explains have one score but for that, the score is made flat:

    s' = s - clip(s - centre, -reach, reach)

To the last bit these rows then have one score on every machine, and s' has no step: it moves by no more than s does.
In ordinary data no two rows are that near, and their scores stay what they were (docs/adr/0016).

Shape legend: B rows, M reference rows, K detectors, A plateaus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.detector import ROUNDING, Detector, OnFeatures, nudged

NUDGES = 4
"""One may by chance move a score along its contour."""
REACH = 8
"""Times what `ROUNDING` moves a score by: 8 x 2^-20 is the tenth of 1e-4 that `export.parity` takes for noise."""
KNOWN_BETTER = 0.9
"""Share of the reference rows whose scores are known at least so well: single odd rows decide nothing."""
SMALLEST_RESOLUTION = 2.0**-23
"""As a share of a score: float32's own resolution."""


def scores_of(
    detectors: Iterable[Detector], given: dict[str, Tensor], generator: torch.Generator | None = None
) -> Tensor:
    """Scores [B, K] of the detectors; with a generator as another machine might have computed them."""
    columns = []
    if generator is not None:
        given = {name: nudged(tensor, generator) for name, tensor in given.items()}
    for detector in detectors:
        inputs = [given[name] for name in detector.inputs]
        if generator is None or not isinstance(detector, OnFeatures):
            columns.append(detector(*inputs))
            continue
        features_BF = detector.features(*inputs, shortest=detector.shortest)
        columns.append(detector.of(nudged(features_BF, generator, by_row=True)))
    return torch.stack(columns, dim=1)


def resolution(scores_MK: NDArray[Any], moved_MK: NDArray[Any]) -> NDArray[np.float64]:
    """How well each detector's scores are known [K].

    Args:
        scores_MK: of reference rows.
        moved_MK: what rounding moved them by.
    """
    own_K = SMALLEST_RESOLUTION * np.abs(scores_MK).max(axis=0)
    known_K: NDArray[np.float64] = np.maximum(np.quantile(moved_MK, KNOWN_BETTER, axis=0), own_K)
    return known_K


class Plateaus(nn.Module):
    """scores [B, K] -> scores [B, K], flat at the plateaus."""

    centre_AK: Tensor
    reach_AK: Tensor

    def __init__(self, plateaus: list[list[tuple[float, float]]]) -> None:
        """Takes centre and reach of each detector's."""
        super().__init__()
        num = max(len(of_one) for of_one in plateaus)
        filled = [[*of_one, *[(0.0, 0.0)] * (num - len(of_one))] for of_one in plateaus]  # a reach of 0 changes nothing
        table_KA2 = torch.tensor(filled, dtype=torch.float64)
        self.register_buffer("centre_AK", table_KA2[:, :, 0].T.contiguous())
        self.register_buffer("reach_AK", table_KA2[:, :, 1].T.contiguous())

    @classmethod
    def fit(cls, scores_MK: NDArray[Any], moved_MK: NDArray[Any]) -> Self | None:
        """None where no scores are that near to each other; arguments as for `resolution`."""
        pairs = zip(scores_MK.T, moved_MK.T, strict=True)
        found = [plateaus_of(scores_M.astype(np.float64), moved_M) for scores_M, moved_M in pairs]
        return cls(found) if any(found) else None

    def of_column(self, x_Bhw: Tensor, column: int) -> Tensor:
        """Numbers of one column, of any shape, as `forward` makes them."""
        own = slice(column, column + 1)
        return self._flat(x_Bhw.reshape(-1, 1), self.centre_AK[:, own], self.reach_AK[:, own]).view(x_Bhw.shape)

    def forward(self, scores_BK: Tensor) -> Tensor:
        """See the class."""
        return self._flat(scores_BK, self.centre_AK, self.reach_AK)

    @staticmethod
    def _flat(scores_BK: Tensor, centre_AK: Tensor, reach_AK: Tensor) -> Tensor:
        exact_BK = scores_BK.double()  # so that s - (s - centre) is the centre to the last bit
        apart_BAK = exact_BK[:, None] - centre_AK
        shift_BK = torch.minimum(torch.maximum(apart_BAK, -reach_AK), reach_AK).sum(dim=1)
        return (exact_BK - shift_BK).float()


def plateaus_of(scores_M: NDArray[np.float64], moved_M: NDArray[Any]) -> list[tuple[float, float]]:
    """Centre and reach of each score that more than 1 + sqrt(M) reference rows have but for rounding, ascending.

    Moving so many rows from one side of a score to the other moves its p-value by more than it is known itself: a
    share of M rows has a standard deviation of up to a half of 1 / sqrt(M).
    """
    order = np.argsort(scores_M, kind="stable")
    left, moved = scores_M[order], moved_M[order].astype(np.float64)
    found: list[tuple[float, float]] = []
    while len(left):
        low = np.searchsorted(left, left - REACH * moved, "left")
        high = np.searchsorted(left, left + REACH * moved, "right")
        most = int(np.argmax(high - low))
        if high[most] - low[most] <= 1 + math.sqrt(len(scores_M)):
            break
        members = slice(low[most], high[most])
        centre = float(left[members][len(left[members]) // 2])
        reach = max(
            REACH * float(moved[members].max()), REACH * ROUNDING * abs(centre), float(np.finfo(np.float32).tiny)
        )
        found.append((centre, reach))
        rest = np.abs(left - centre) > reach
        rest[members] = False
        left, moved = left[rest], moved[rest]
    found.sort()
    # where two meet the score would turn round
    centres = [centre for centre, _ in found]
    room: list[float] = [math.inf, *(np.diff(centres) / 2).tolist(), math.inf]
    return [(centre, min(reach, room[i], room[i + 1])) for i, (centre, reach) in enumerate(found)]
