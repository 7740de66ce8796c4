"""What a detector is: a small module fitted on training rows, that becomes one column of `scores`.

No number is known better than it was computed (docs/adr/0016): what a detector divides by is never smaller than what
rounding makes of its inputs.

Shape legend: B rows, N training rows, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.lazy import batch_rows, parts_of

BATCH_BYTES = 2**22
"""Of input that is looked at at a time: as floats it is four times as much, and there are some copies of it."""
ROUNDING = 2.0**-20
"""How well a float32 tensor is known, of its size: 8 units in its last place. A sum of some hundred terms in another
order, by another library or on another CPU, comes out that far apart; `check_parity` measures it."""
SMALLEST_DEVIATION = 128 * ROUNDING
"""The smallest deviation or length that is divided by, as a share of the numbers: rounding then moves the quotient by
1/128 at most. What varies less is noise for the most part of its digits."""
TINY = 1e-8
Arrays = dict[str, NDArray[Any]]
"""Inputs, and the outputs of the exported graphs for them, by tensor name."""


class Detector(Protocol):
    """A torch module whose `forward` becomes part of scorer.onnx.

    Attributes:
        name: of the column.
        method: how the score is computed, for people.
        inputs: names of the tensors that `forward` takes, in its order.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Scores, float [B]; a larger score means further out of distribution."""
        ...


class FittedDetector(Detector, Protocol):
    """A detector that is fitted on training rows."""

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """Fits it on the tensors of training rows that `inputs` names."""
        ...


class Featured(Protocol):
    """A class of detectors that compare features of their inputs."""

    inputs: ClassVar[tuple[str, ...]]

    @staticmethod
    def features(*tensors: Tensor, shortest: float) -> Tensor:
        """Float [B, F] of what `inputs` names."""
        ...


@runtime_checkable
class OnFeatures(Protocol):
    """A detector whose `forward` is `of` its `features`: these have rounding that its inputs do not have.

    Attributes:
        shortest: length below which an embedding has no direction.
    """

    shortest: float

    def features(self, *tensors: Tensor, shortest: float) -> Tensor:
        """See `Featured`."""
        ...

    def of(self, x_BF: Tensor, /) -> Tensor:
        """Scores [B] of features."""
        ...


def unit(embedding_BD: Tensor, shortest: float = TINY) -> Tensor:
    """Rows of length 1; what is shorter than `shortest` stays as much shorter, a row of zeros one of zeros.

    Written out: `F.normalize` expands the lengths to a shape that every call would have to work out.
    """
    length_B1: Tensor = torch.linalg.vector_norm(embedding_BD, dim=1, keepdim=True)
    return embedding_BD / length_B1.clamp_min(shortest)


def float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Converts an array to what a buffer of a detector is made of."""
    return np.ascontiguousarray(array, dtype=np.float32)


def batches_of(arrays: Arrays, names: Sequence[str]) -> Iterator[tuple[Tensor, ...]]:
    """Some rows at a time of the tensors that are named, of rows that are not in memory, too."""
    given = [arrays[name] for name in names]
    num_rows = min(batch_rows(one, BATCH_BYTES) for one in given)
    for parts in zip(*(parts_of(one, num_rows) for one in given), strict=True):
        yield tuple(torch.from_numpy(part) for part in parts)


def features_of(kind: type[Featured], train: Arrays, shortest: float = TINY) -> NDArray[np.float32]:
    """Computes the features of the tensors that `kind.inputs` names, float [N, F].

    Some rows at a time: inputs may be large.
    """
    features_NF, done = np.zeros((0, 0), np.float32), 0
    for rows in batches_of(train, kind.inputs):
        x_BF = kind.features(*rows, shortest=shortest)
        if not done:
            features_NF = np.empty((len(train[kind.inputs[0]]), x_BF.shape[1]), np.float32)
        features_NF[done : (done := done + len(x_BF))] = x_BF.numpy()
    return features_NF


def shortest_of(inputs: tuple[str, ...], train: Arrays) -> float:
    """The length below which an embedding's direction is rounding; for other inputs hardly any is."""
    if inputs != ("embedding",):
        return TINY
    embedding_ND = train["embedding"]
    return max(TINY, SMALLEST_DEVIATION * math.sqrt(mean_square(embedding_ND) * embedding_ND.shape[1]))


def mean_square(x_ND: NDArray[Any]) -> float:
    """Of all numbers, in float64 and without a copy of them."""
    return float(np.einsum("nd,nd->", x_ND, x_ND, dtype=np.float64)) / x_ND.size


def nudged(x: Tensor, generator: torch.Generator, by_row: bool = False) -> Tensor:
    """A float tensor as another machine might have computed it; what was sent stays as it is.

    Args:
        x: of B rows.
        generator: of the signs.
        by_row: whether each row is known as well as it is large itself, and not as well as rows are large.
    """
    if not x.is_floating_point():
        return x
    squares_B1 = x.flatten(1).square().mean(dim=1, keepdim=True)
    size_B1 = (squares_B1 if by_row else squares_B1.mean(dim=0, keepdim=True)).sqrt()
    signs = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    return x + ROUNDING * size_B1.view(-1, *[1] * (x.dim() - 1)) * signs
