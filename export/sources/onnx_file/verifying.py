"""Runs the bundle's graph beside the user's file: of 1, 2 and 7 rows it must say what the file says of each alone.

That shows at once that the rows are prepared as they should be, that any number of them may be asked, and that no row
depends on another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.sources.onnx_file.building import EMBEDDING, PATCHES, Plan, build
from export.sources.onnx_file.freeing import constant_values, reshaped_to
from export.sources.onnx_file.original import Original, reason, session
from export.sources.source import SourceError
from latentserve.inputs import INPUT, AudioInput, ImageInput
from training.preprocessing import floats_from_rows

NUMBERS = (1, 2, 7)
RELATIVE_TOLERANCE = 1e-4
"""Of a tensor's largest absolute value, as export.parity has it."""
ABSOLUTE_TOLERANCE = 1e-6
DEPEND = ("DynamicQuantizeLinear", "BatchNormalization", "Dropout")
"""Operators that usually are the reason: a range or a mean over all rows, or chance."""

Rows = NDArray[np.uint8] | NDArray[np.int16]
Tensors = list[NDArray[np.float32]]


class FixedRows(SourceError):
    """A node takes a certain number of rows alone."""


@dataclass(frozen=True)
class Expected:
    """What the file says of each row, asked for it alone.

    Attributes:
        rows: as clients send them.
        tensors: the embedding, and the patches if they are kept.
        shapes: of one row of the file's own tensors, of the embedding, and of the patches.
    """

    rows: Rows
    tensors: Tensors
    shapes: list[tuple[int, ...]]


def outputs_of(plan: Plan, tensors: Tensors) -> Tensors:
    """The embedding, and the patches if they are kept, of the file's tensors."""
    return [plan.pooled.of(tensors[0]), *([plan.places.of(tensors[1])] if plan.places else [])]


def verified(plan: Plan, original: Original) -> onnx.ModelProto:
    """Builds the graph that says what the file says.

    Raises:
        SourceError: it does not, as the number of rows is fixed, a row depends on others or on chance, or is NaN.
    """
    check_inference(plan)
    expected = expect(plan, original)
    try:
        return _checked(build(plan, expected.shapes, free=False), plan, expected)
    except FixedRows as error:
        try:
            return _checked(build(plan, expected.shapes, free=True), plan, expected)
        except FixedRows as remaining:
            raise remaining from None
        except SourceError:
            raise error from None


def expect(plan: Plan, original: Original) -> Expected:
    """Asks the file for each of some rows alone, and for the first one twice."""
    rows = example_rows(plan.entry.input, max(NUMBERS))
    x = floats_from_rows(torch.from_numpy(rows)).numpy()
    runs = [original.run(plan.entry.prepared(x[at : at + 1]), plan.entry.fixed_rows) for at in [0, *range(len(x))]]
    each = [outputs_of(plan, tensors) for tensors in runs]
    tensors = [np.concatenate(one) for one in zip(*each[1:], strict=True)]
    names = plan.file.path.name
    if not all(np.isfinite(one).all() for one in tensors):
        raise SourceError(f"onnx: {names}: got an embedding that is not finite for an image of noise, expected numbers")
    if any(_far(one, other) for one, other in zip(each[0], each[1], strict=True)):
        raise SourceError(
            f"onnx: {names}: got two answers for one row{_why(plan)}, expected the same each time: export the network"
            " in eval mode, without dropout and noise"
        )
    return Expected(rows, tensors, [one.shape[1:] for one in (*runs[0], *tensors)])


def example_rows(entry: ImageInput | AudioInput, num: int) -> Rows:
    """Noise, brighter or louder from row to row, so that what is computed over all rows shows."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, (num, *entry.spec.shape))
    strength = np.linspace(0.1, 0.9, num).reshape(num, *(1 for _ in entry.spec.shape))
    if isinstance(entry, AudioInput):
        return (noise * strength * 32767).astype(np.int16)
    return ((strength + noise * strength * (1 - strength)) * 255).clip(0, 255).astype(np.uint8)


def _checked(model: onnx.ModelProto, plan: Plan, expected: Expected) -> onnx.ModelProto:
    name = plan.file.path.name
    try:
        runner = session(model.SerializeToString())
    except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
        raise _fixed(plan, model, error) from None
    for num in NUMBERS:
        try:
            got = runner.run([EMBEDDING, PATCHES][: len(expected.tensors)], {INPUT: expected.rows[:num]})
        except Exception as error:  # as above
            if num == (plan.entry.fixed_rows or 1):
                raise SourceError(f"onnx: {name}: got a graph that cannot be run: {reason(error)}") from None
            raise _fixed(plan, model, error) from None
        for one, other in zip(got, expected.tensors, strict=True):
            if one.shape != other[:num].shape:
                raise _fixed(plan, model, None)
            if _far(one, other[:num]) and num == 1:
                raise SourceError(f"onnx: {name}: got a graph that says another thing than the file of one row")
            if _far(one, other[:num]):
                raise SourceError(
                    f"onnx: {name}: got other embeddings for {num} rows at once than for each alone{_why(plan)},"
                    " expected a network in which no row depends on the others: export it in eval mode"
                )
    return model


def _far(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    tolerance = RELATIVE_TOLERANCE * float(np.abs(other).max()) + ABSOLUTE_TOLERANCE
    return not float(np.abs(one - other).max()) <= tolerance


def _fixed(plan: Plan, model: onnx.ModelProto, error: Exception | None) -> FixedRows:
    num = plan.entry.fixed_rows or 1
    constants = constant_values(model.graph)
    shapes = ((node, reshaped_to(node, constants)) for node in model.graph.node)
    named = [f"the node {node.name or node.output[0]} (Reshape)" for node, to in shapes if to and to[0] == num]
    text = "" if error is None else str(error)
    if match := re.search(r"running (\w+) node\. Name:'([^']*)'", text):
        named.insert(0, f"the node {match[2] or '?'} ({match[1]})")
    by = named[0] if named else "a node inside" + (f" ({reason(error)})" if error is not None else "")
    return FixedRows(
        f"onnx: {plan.file.path.name}: got a network for {num} row{'s' if num > 1 else ''} at a time, fixed by {by},"
        " expected one for any number: export it with a free axis of rows"
    )


def _why(plan: Plan) -> str:
    for node in plan.file.model.graph.node:
        if node.op_type in DEPEND or node.op_type.startswith("Random"):
            return f" (perhaps by the node {node.name or node.output[0]}, a {node.op_type})"
    return ""


def check_inference(plan: Plan) -> None:
    """Raises SourceError if a node behaves as in training."""
    model = build(plan, [(1,)] * 4, free=False)
    constants = constant_values(model.graph)
    for node in model.graph.node:
        training = any(one.name == "training_mode" and one.i for one in node.attribute)
        if node.op_type == "BatchNormalization":
            training |= len([one for one in node.output if one]) > 1
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in constants:
            training |= any(onnx.numpy_helper.to_array(constants[node.input[2]]).ravel())
        if training:
            raise SourceError(
                f"onnx: {plan.file.path.name}: got the node {node.name or node.output[0]} ({node.op_type}) in training"
                " mode, expected inference: export the network in eval mode"
            )
