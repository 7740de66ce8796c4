"""ONNX files as other people's tools write them, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH, DIM = 8, 12, 5
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
RNG = np.random.default_rng(3)
WEIGHTS: dict[str, np.ndarray[Any, Any]] = {
    "w": RNG.normal(size=(DIM, 3, 3, 3)).astype(np.float32) / 5,
    "head": RNG.normal(size=(DIM, DIM)).astype(np.float32),
    "axes": np.array([2, 3], np.int64),
}


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """A node that is called as its first output is, with `_node` behind it."""
    return helper.make_node(operator, inputs, outputs, f"{outputs[0]}_node", **attributes)


def images(layout: str = "NCHW", rows: Any = "n", name: str = "pixels", dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """An input of images."""
    axes = [rows, 3, HEIGHT, WIDTH] if layout == "NCHW" else [rows, HEIGHT, WIDTH, 3]
    return helper.make_tensor_value_info(name, dtype, axes)


def output(name: str, *axes: Any, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """An output."""
    return helper.make_tensor_value_info(name, dtype, axes or None)


def write(
    path: Path,
    inputs: list[onnx.ValueInfoProto],
    nodes: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto],
    opset: int = 17,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    domains: dict[str, int] | None = None,
) -> Path:
    """Writes a model with those of the weights that a node reads."""
    held: dict[str, np.ndarray[Any, Any]] = WEIGHTS | (weights or {})
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    read = {name for one in nodes for name in one.input} | set(weights or {})
    graph.initializer.extend(numpy_helper.from_array(held[name], name) for name in sorted(read & held.keys()))
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(name, one) for name, one in (domains or {}).items()),
    ]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def features(layout: str = "NCHW", uint8: bool = False, name: str = "pixels") -> list[onnx.NodeProto]:
    """pixels -> a map [n, DIM, HEIGHT, WIDTH] and its mean `pooled` [n, DIM, 1, 1]."""
    nodes = []
    if uint8:
        nodes.append(node("Cast", [name], ["floats"], to=FLOAT))
        name = "floats"
    if layout == "NHWC":
        nodes.append(node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    nodes.append(node("Conv", [name, "w"], ["conv"], pads=[1, 1, 1, 1]))
    nodes.append(node("Relu", ["conv"], ["map"]))
    return [*nodes, node("GlobalAveragePool", ["map"], ["pooled"])]


def vector() -> list[onnx.NodeProto]:
    """pooled -> features [n, DIM]."""
    return [node("Flatten", ["pooled"], ["flat"]), node("MatMul", ["flat", "head"], ["features"])]


def encoder(path: Path, layout: str = "NCHW", rows: Any = "n", uint8: bool = False) -> Path:
    """An ordinary network: one input, one output [n, DIM]."""
    given = images(layout, rows, dtype=UINT8 if uint8 else FLOAT)
    return write(path, [given], [*features(layout, uint8), *vector()], [output("features", rows, DIM)])
