"""Makes the bundle's graph of somebody else's: cut out, with our input before it and our outputs behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.sources.onnx_file.entry import Entry
from export.sources.onnx_file.parts import PREFIX, Parts
from export.sources.onnx_file.pooling import Places, Pooled
from export.sources.onnx_file.reading import File, inner_graphs
from latentserve.inputs import INPUT, ImageInput

ROWS = "rows"
EMBEDDING, PATCHES = "embedding", "patches"
OURS = (INPUT, EMBEDDING, PATCHES)
FIRST_IR_VERSION = 4
"""In which weights need not be inputs."""


@dataclass(frozen=True)
class Plan:
    """What is made of a file.

    Attributes:
        file: as it was read.
        entry: its input.
        pooled: from which the embedding comes.
        places: from which the patches come, if they are kept.
    """

    file: File
    entry: Entry
    pooled: Pooled
    places: Places | None

    @property
    def tensors(self) -> list[str]:
        """Those of the file that are read."""
        return [self.pooled.tensor, *([self.places.tensor] if self.places else [])]


def build(plan: Plan, shapes: list[tuple[int, ...]], free: bool) -> onnx.ModelProto:
    """Makes the graph `input` -> `embedding`, and `patches` if they are kept.

    Args:
        plan: what is made.
        shapes: of one row of `plan.tensors`, of the embedding, and of the patches.
        free: whether a number of rows that a Reshape fixes is made free.
    """
    model = helper.make_model(onnx.GraphProto(), opset_imports=plan.file.model.opset_import)
    model.ir_version = max(plan.file.model.ir_version, FIRST_IR_VERSION)
    graph = model.graph
    graph.CopyFrom(plan.file.model.graph)
    cut(graph, plan.tensors)
    if free:
        free_rows(graph, plan.entry.name, plan.entry.fixed_rows or 1)
    names = {name: f"{PREFIX}file/{name}" for name in OURS}
    rename(graph, names)
    parts = Parts(plan.file.opset)
    replace(plan.entry, name=names.get(plan.entry.name, plan.entry.name)).write(parts)
    num_before = len(parts.nodes)
    tensor = plan.pooled.tensor
    replace(plan.pooled, tensor=names.get(tensor, tensor)).write(parts, EMBEDDING)
    if plan.places is not None:
        tensor, of = plan.places.tensor, shapes[1]
        replace(plan.places, tensor=names.get(tensor, tensor)).write(parts, PATCHES, of[0], of[-1])
    nodes = [*parts.nodes[:num_before], *graph.node, *parts.nodes[num_before:]]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(parts.constants)
    dtype = TensorProto.UINT8 if isinstance(plan.entry.input, ImageInput) else TensorProto.INT16
    graph.input.append(helper.make_tensor_value_info(INPUT, dtype, [ROWS, *plan.entry.input.spec.shape]))
    for name, shape in zip((EMBEDDING, PATCHES), shapes[len(plan.tensors) :], strict=False):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, *shape]))
    return model


def cut(graph: onnx.GraphProto, wanted: list[str]) -> None:
    """Leaves only what some tensors are computed from, what inner graphs read included.

    onnx.utils.extract_model follows no inner graphs, and asks for the types of what is cut out.
    """
    needed, kept = set(wanted), list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= _read(node)
            kept.append(node)
    held = [one for one in graph.initializer if one.name in needed]
    sparse = [one for one in graph.sparse_initializer if one.values.name in needed]
    name = graph.name
    graph.Clear()
    graph.name = name
    graph.node.extend(reversed(kept))
    graph.initializer.extend(held)
    graph.sparse_initializer.extend(sparse)


def _read(node: onnx.NodeProto) -> set[str]:
    """Names of what a node reads, and what may be of its inner graphs' surroundings."""
    names = set(node.input)
    for inner in inner_graphs(node):
        names |= {one.name for one in inner.output}.union(*(_read(one) for one in inner.node))
    return names


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Renames tensors, in inner graphs as well. onnx.compose.add_prefix leaves out weights that inner graphs read."""
    for node in graph.node:
        for inner in inner_graphs(node):
            rename(inner, names)
        for values in (node.input, node.output):
            values[:] = [names.get(one, one) for one in values]
    for one in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        one.name = names.get(one.name, one.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)


def free_rows(graph: onnx.GraphProto, entry: str, num: int) -> None:
    """Makes a Reshape to a constant number of rows one to any; whether that is right shows when it is run."""
    constants = constant_values(graph)
    moving = {entry}
    for node in graph.node:
        if not moving & _read(node):
            continue
        moving |= set(node.output)
        shape = reshaped_to(node, constants)
        if shape is None or len(shape) < 2 or shape[0] != num or node.input[0] not in moving:
            continue
        shape = [0 if -1 in shape[1:] else -1, *shape[1:]]
        name = f"{PREFIX}shape_of_{node.output[0]}"
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        node.input[1] = name


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
    if any(one.name == "allowzero" and one.i for one in node.attribute):
        return None
    return [int(one) for one in numpy_helper.to_array(constants[node.input[1]])]
