"""Makes a number of rows free that the example of an export fixed.

Whether that is right shows when the graph is run with other numbers of rows.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.sources.onnx_file.parts import PREFIX
from export.sources.onnx_file.reading import read_by


def free_rows(graph: onnx.GraphProto, entry: str, num: int) -> None:
    """Takes the number of rows out of what says it: the shape of a Reshape, a token that is put before others.

    Args:
        graph: is changed.
        entry: its input.
        num: of rows that it takes.
    """
    constants = constant_values(graph)
    moving, nodes = {entry}, list[onnx.NodeProto]()
    for node in graph.node:
        if moving & read_by(node):
            moving |= set(node.output)
            shape = reshaped_to(node, constants)
            if shape is not None and len(shape) > 1 and shape[0] == num and node.input[0] in moving:
                _free_reshape(graph, node, shape)
            if node.op_type == "Concat":
                nodes += _repeated(graph, node, moving, _ranks(graph, constants))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _free_reshape(graph: onnx.GraphProto, node: onnx.NodeProto, shape: list[int]) -> None:
    """-1: as many as there are; 0: as many as before, unless zeros are allowed."""
    kept = [one for one in node.attribute if one.name != "allowzero"]
    del node.attribute[:]
    node.attribute.extend(kept)
    shape = [0 if -1 in shape[1:] else -1, *shape[1:]]
    name = f"{PREFIX}shape_of_{node.output[0]}"
    graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    node.input[1] = name


def _repeated(
    graph: onnx.GraphProto, node: onnx.NodeProto, moving: set[str], ranks: dict[str, int]
) -> list[onnx.NodeProto]:
    """Nodes that repeat what a Concat puts beside rows, a class token say, for each row."""
    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    beside = next((one for one in node.input if one in moving), "")
    tokens = [number for number, one in enumerate(node.input) if one in ranks and one not in moving]
    if axis == 0 or not tokens:
        return []
    of = f"{PREFIX}{node.output[0]}"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), f"{of}_first"))
    made = [
        helper.make_node("Shape", [beside], [f"{of}_shape"], f"{of}_shape"),
        helper.make_node("Gather", [f"{of}_shape", f"{of}_first"], [f"{of}_rows"], f"{of}_rows"),
    ]
    for number in tokens:
        token, to = node.input[number], f"{of}_{number}"
        ones = np.ones(ranks[token] - 1, np.int64)
        graph.initializer.append(numpy_helper.from_array(ones, f"{to}_ones"))
        made += [
            helper.make_node("Concat", [f"{of}_rows", f"{to}_ones"], [f"{to}_shape"], f"{to}_shape", axis=0),
            helper.make_node("Expand", [token, f"{to}_shape"], [to], to),
        ]
        node.input[number] = to
    return made


def _ranks(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> dict[str, int]:
    """Number of axes of what does not move: weights, and weights that are expanded."""
    ranks = {name: len(tensor.dims) for name, tensor in constants.items() if len(tensor.dims) and tensor.dims[0] == 1}
    for node in graph.node:
        if node.op_type == "Expand" and node.input[0] in constants:
            data, shape = constants[node.input[0]], constants.get(node.input[1])
            ranks[node.output[0]] = len(data.dims) if shape is None else shape.dims[0]
    return ranks


def constant_values(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Weights and constants by name."""
    found = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def reshaped_to(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int] | None:
    """The shape that a Reshape says in numbers; None: it is no Reshape, or its shape is computed."""
    if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
        return None
    shape = [int(one) for one in numpy_helper.to_array(constants[node.input[1]])]
    allowed = any(one.name == "allowzero" and one.i for one in node.attribute)
    return None if allowed and 0 in shape else shape
