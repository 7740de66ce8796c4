"""Nodes and constants that are added to somebody else's graph, in the operators of its own opset.

So that graph stays as it is: nothing of it is converted to another version.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PREFIX = "latentserve/"
AXES_ARE_AN_INPUT = {"ReduceSum": 13, "ReduceMean": 18}
"""Since which opset."""


class Parts:
    """Collects nodes and constants.

    Args:
        opset: of the graph that they are for.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds a node; returns the name of what it gives."""
        output = output or f"{PREFIX}{len(self.nodes)}_{operator}"
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{PREFIX}node_{output}", **attributes))
        return output

    def constant(self, value: NDArray[Any] | np.float32) -> str:
        """Adds a constant; returns its name."""
        name = f"{PREFIX}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def reduce(self, operator: Literal["ReduceSum", "ReduceMean"], value: str, axes: list[int], keep: bool) -> str:
        """Adds a sum or mean over axes."""
        if self.opset < AXES_ARE_AN_INPUT[operator]:
            return self.add(operator, value, axes=axes, keepdims=int(keep))
        return self.add(operator, value, self.constant(np.array(axes, np.int64)), keepdims=int(keep))
