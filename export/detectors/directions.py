"""Where a row lies among the training rows, in few numbers: its place along the directions in which these vary most.

With m and S the mean and the shrunk covariance of training rows of unit length, and V the P eigenvectors of S with the
largest variances,

    x = z / |z|      y = V^T (x - m)      outside = |x - m - V y|^2

Distances and neighbours of an embedding are computed from y and `outside`: by a matrix with P columns where each would
have one of its own, and a large one. Detectors of a bundle hold the same `Directions` (docs/adr/0035).

Sources: Tipping and Bishop, Probabilistic principal component analysis, J. Royal Statistical Society B 61 (1999) 611 (a
Gaussian that has one variance for all directions outside, the mean of theirs); Ledoit and Wolf, see `covariance`.

Shape legend: B rows, N training rows, D numbers of a row, P directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.covariance import ROWS_AT_ONCE, covariance, smallest_deviation
from export.detectors.detector import TINY, Arrays, Detector, FittedDetector, features_of, float32, shortest_of, unit

MOST_DIRECTIONS = 256
"""With half of them distances of wide embeddings told some sets less well (docs/adr/0035)."""


class Placed(NamedTuple):
    """Rows along the directions.

    Attributes:
        y_BP: their place, the direction of largest variance first.
        outside_B: the squared length of what lies outside the directions.
        missing_B: 1 - |x|^2: 0, or up to 1 of a row that is too short to have a direction.
    """

    y_BP: Tensor
    outside_B: Tensor
    missing_B: Tensor


class Directions(nn.Module):
    """rows [B, D] -> where they lie.

    Attributes:
        shortest: length below which a row has no direction.
        variance_P: of training rows along the directions, shrunk.
        outside_variance: one for all other directions: the mean of theirs; 1 where there are none.
        smallest: deviation along any direction that is no rounding.
        key: tells these directions from others; torch.export shows a module as another object each time.
    """

    mean_D: Tensor
    leading_DP: Tensor

    def __init__(
        self,
        mean_D: NDArray[Any],
        leading_DP: NDArray[Any],
        variance_P: NDArray[np.float64],
        outside_variance: float,
        smallest: float,
        shortest: float,
    ) -> None:
        super().__init__()
        self.variance_P, self.outside_variance = variance_P, outside_variance
        self.smallest, self.shortest, self.key = smallest, shortest, object()
        self.register_buffer("mean_D", torch.from_numpy(float32(mean_D)))
        self.register_buffer("leading_DP", torch.from_numpy(float32(leading_DP)))

    @classmethod
    def fit(cls, z_ND: NDArray[Any], shortest: float = TINY, most: int = MOST_DIRECTIONS) -> Self:
        """So many directions of rows of any length, or as many as there are."""
        x_ND = unit(torch.from_numpy(z_ND), shortest).numpy()
        smallest_D = smallest_deviation(x_ND)
        variance_D, directions_DD = np.linalg.eigh(covariance(x_ND, smallest_D))  # in ascending order
        inside = slice(-1, -1 - min(most, len(variance_D)), -1)
        outside_variance = float(variance_D[:-most].mean()) if len(variance_D) > most else 1.0
        mean_D = x_ND.mean(axis=0, dtype=np.float64)
        leading_DP, variance_P = directions_DD[:, inside], variance_D[inside]
        return cls(mean_D, leading_DP, variance_P, outside_variance, float(smallest_D[0]), shortest)

    def forward(self, z_BD: Tensor) -> Placed:
        """See the class."""
        length_B: Tensor = torch.linalg.vector_norm(z_BD, dim=1)
        missing_B = 1 - (length_B / self.shortest).clamp_max(1).square()
        centred_BD = unit(z_BD, self.shortest) - self.mean_D
        y_BP = centred_BD @ self.leading_DP
        if y_BP.shape[1] == centred_BD.shape[1]:  # nothing lies outside
            return Placed(y_BP, torch.zeros_like(missing_B), missing_B)
        return Placed(y_BP, (centred_BD - y_BP @ self.leading_DP.T).square().sum(dim=1), missing_B)

    def of_training(self, z_ND: NDArray[Any]) -> Placed:
        """Where training rows lie, float64 [N, P] and [N]: as exact as what is made of them should be."""
        exact = deepcopy(self).double()
        parts = [
            exact(torch.from_numpy(z_ND[start : start + ROWS_AT_ONCE]).double())
            for start in range(0, len(z_ND), ROWS_AT_ONCE)
        ]
        return Placed(*(torch.cat(part) for part in zip(*parts, strict=True)))


class OnDirections(nn.Module):
    """A detector of where rows lie along directions. A subclass says which rows: embeddings, unless it has others.

    Attributes:
        most: directions that it looks along, if they are its own.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    most: ClassVar[int] = MOST_DIRECTIONS

    def __init__(self, directions: Directions) -> None:
        super().__init__()
        self.directions, self.shortest = directions, directions.shortest

    @staticmethod
    def features(*tensors: Tensor, shortest: float = TINY) -> Tensor:  # noqa: ARG004 (directions know it)
        """The rows, float [B, D], of what `inputs` names."""
        (embedding_BD,) = tensors
        return embedding_BD

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Fits it on training rows, along directions of their own."""
        chosen = cls.drawn(len(train[cls.inputs[0]]))
        z_ND = features_of(cls, {name: train[name][chosen] for name in cls.inputs})
        directions = Directions.fit(z_ND, shortest_of(cls.inputs, train), cls.most)
        return cls.fit_placed(directions, directions.of_training(z_ND))

    @classmethod
    def drawn(cls, num_rows: int) -> slice | NDArray[np.int64]:  # noqa: ARG003 (it takes all)
        """Which of so many training rows it is fitted on."""
        return slice(None)

    @classmethod
    def fit_placed(cls, directions: Directions, train: Placed) -> Self:
        """Fits it on where training rows lie, in float64."""
        raise NotImplementedError

    def placed(self, *tensors: Tensor) -> Placed:
        """Where rows lie."""
        placed: Placed = self.directions(self.features(*tensors, shortest=self.shortest))
        return placed

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B]."""
        return self.of_placed(self.placed(*tensors))

    def of(self, z_BD: Tensor) -> Tensor:
        """Scores [B] of features."""
        return self.of_placed(self.directions(z_BD))

    def of_placed(self, rows: Placed) -> Tensor:
        """Scores [B] of rows."""
        raise NotImplementedError


def fitted_on(rows: Arrays, kinds: Sequence[type[FittedDetector]]) -> list[Detector]:
    """Fits detectors on training rows; those of embeddings hold the same directions."""
    (embedding,) = OnDirections.inputs
    shared = [kind for kind in kinds if issubclass(kind, OnDirections) and kind.features is OnDirections.features]
    if not shared:
        return [kind.fit(rows) for kind in kinds]
    directions = Directions.fit(rows[embedding], shortest_of(OnDirections.inputs, rows))
    placed, detectors = directions.of_training(rows[embedding]), list[Detector]()
    for kind in kinds:
        if issubclass(kind, OnDirections) and kind in shared:
            chosen = kind.drawn(len(placed.y_BP))
            detectors.append(kind.fit_placed(directions, Placed(*(one[chosen] for one in placed))))
        else:
            detectors.append(kind.fit(rows))
    return detectors


def scores_by(detector: Detector, given: Sequence[Tensor], placed: dict[object, Placed]) -> Tensor:
    """Scores [B] of a detector; where rows lie is worked out once for all that hold the same directions.

    Args:
        detector: any.
        given: the tensors that its `inputs` names.
        placed: what is known already of these rows, by the directions' key; what is not is added.
    """
    if not isinstance(detector, OnDirections):
        return detector(*given)
    key = detector.directions.key
    if key not in placed:
        placed[key] = detector.placed(*given)
    return detector.of_placed(placed[key])
