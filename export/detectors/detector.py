"""What a detector is: a small module fitted on training rows, that becomes one column of `scores`."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
