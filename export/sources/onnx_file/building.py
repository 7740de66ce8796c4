"""Makes the bundle's graph of somebody else's: cut out, with our input before it and our outputs behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.sources.onnx_file.entry import Entry
from export.sources.onnx_file.freeing import free_rows
from export.sources.onnx_file.parts import PREFIX, Parts
from export.sources.onnx_file.pooling import Places, Pooled
from export.sources.onnx_file.reading import File, inner_graphs, read_by
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
        free: whether a number of rows that some nodes fix is made free.
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
            needed |= read_by(node)
            kept.append(node)
    held = [one for one in graph.initializer if one.name in needed]
    sparse = [one for one in graph.sparse_initializer if one.values.name in needed]
    name = graph.name
    graph.Clear()
    graph.name = name
    graph.node.extend(reversed(kept))
    graph.initializer.extend(held)
    graph.sparse_initializer.extend(sparse)


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Renames tensors, in inner graphs as well. onnx.compose.add_prefix leaves out weights that inner graphs read."""
    for node in graph.node:
        for inner in inner_graphs(node):
            rename(inner, names)
        for used in (node.input, node.output):
            used[:] = [names.get(one, one) for one in used]
    values: list[Any] = [*graph.initializer, *graph.input, *graph.output, *graph.value_info]
    for one in values:
        one.name = names.get(one.name, one.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
