"""What a detector is: a small module fitted on training rows, that becomes one column of `scores`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS_AT_ONCE = 500
Arrays = dict[str, NDArray[Any]]
"""What was sent and what the exported graphs gave for it, by tensor name."""


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
        """Scores, float [B]; larger is stranger."""
        ...


def float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """What a buffer of a detector is made of."""
    return np.ascontiguousarray(array, dtype=np.float32)


def features_of(kind: Any, train: Arrays) -> NDArray[np.float32]:
    """What `kind.features` makes of the tensors that `kind.inputs` names, float [N, F].

    Some rows at a time: inputs may be large.
    """
    given = [torch.from_numpy(train[name]) for name in kind.inputs]
    parts = [kind.features(*rows) for rows in zip(*(torch.split(one, ROWS_AT_ONCE) for one in given), strict=True)]
    features_NF: NDArray[np.float32] = torch.cat(parts).numpy()
    return features_NF
