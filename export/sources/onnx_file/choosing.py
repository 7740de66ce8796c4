"""Which tensors of a file become the embedding and the patches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.sources.onnx_file.describing import axes_of, in_words
from export.sources.onnx_file.entry import Entry
from export.sources.onnx_file.original import Original, reason
from export.sources.onnx_file.pooling import Kind, Places, Pooled, Pooling, grid_of, kind_of, places_in
from export.sources.onnx_file.reading import File, nearest
from export.sources.source import SourceError, SourceOptions
from latentserve.inputs import ImageInput

Rule = Literal["auto", "cls", "mean", "pooled"]
RULES: tuple[Rule, ...] = ("auto", "cls", "mean", "pooled")
FLOAT = "tensor(float)"
FURTHEST = 40
"""Nodes between a map and the embedding: a pooling, a few layers of a head."""

Shape = tuple[int, ...]
"""Of one row of a tensor."""


def chosen(file: File, entry: Entry, options: SourceOptions) -> tuple[Pooled, Places | None]:
    """Chooses, and runs the file on one row to see what is there.

    Raises:
        SourceError: there is no such tensor, it is no embedding, or the user has to choose.
    """
    tensor, rule = _named(file, options.embedding)
    kind = _kind(entry, tensor, shape := _shapes(file, entry, [tensor], "embedding")[tensor], "embedding")
    pooling, image = _pooling(tensor, shape, kind, rule), _image(entry)
    of_places = places_in(shape, image) if (kind, pooling) == ("tokens", "mean") and image is not None else None
    if of_places is not None:
        said = f"the mean of {tensor} leaves out the first {of_places[0]} of {shape[0]} tokens: the others are places"
        print(f"import: {said}", file=sys.stderr)
    pooled = Pooled(tensor, kind, pooling, options.normalise, of_places)
    return pooled, _places(file, entry, pooled, options.patches)


def _named(file: File, wanted: str) -> tuple[str, Rule]:
    """The tensor, and what is to be done with it."""
    outputs = file.model.graph.output
    inside = [name for node in file.model.graph.node for name in node.output if name]
    if wanted in RULES and (len(outputs) == 1 or wanted not in inside):  # a tensor of such a name: NAME:auto
        if len(outputs) != 1:
            listed = ", ".join(f"{one.name} {in_words(axes_of(one))}" for one in outputs)
            raise SourceError(
                f"embedding: the file has {len(outputs)} outputs ({listed}), expected the name of one, or of a tensor"
                " inside, as NAME or NAME:cls or NAME:mean"
            )
        value = outputs[0]
        if (kind := value.type.WhichOneof("value")) not in (None, "tensor_type"):
            got = (kind or "").removesuffix("_type").replace("_", " ")
            raise SourceError(f"embedding: the output {value.name} is a {got}, expected a tensor: name one inside")
        return value.name, next(one for one in RULES if one == wanted)
    if wanted in inside:
        return wanted, "auto"
    name, _, after = wanted.rpartition(":")
    for rule in RULES:
        if name in inside and after == rule:
            return name, rule
    raise SourceError(f"embedding: got {wanted!r}, expected a tensor of the file{nearest(name or wanted, inside)}")


def _shapes(file: File, entry: Entry, names: Sequence[str], option: str) -> dict[str, Shape]:
    """Shapes of one row of tensors; where several are looked at, those that are no rows of floats are left out."""
    original = Original(file, names)
    row = np.zeros((1, *entry.input.spec.shape), np.float32)
    x = np.moveaxis(row, -1, 1) if entry.is_image else row
    only = len(names) == 1
    if only and original.types[names[0]] != FLOAT:
        got = original.types[names[0]].removeprefix("tensor(").removesuffix(")")
        raise SourceError(f"{option}: the tensor {names[0]} is of {got}, expected float")
    try:
        tensors = dict(zip(names, original.run(entry.prepared(x), entry.fixed_rows), strict=True))
    except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
        what = in_words([entry.fixed_rows or 1, *entry.axes])
        raise SourceError(f"onnx: {file.path.name}: cannot be run on {entry.name} {what}: {reason(error)}") from None
    found = {name: _row_shape(one) for name, one in tensors.items()}
    if only and found[names[0]] is None:
        got = list(tensors[names[0]].shape)
        raise SourceError(f"{option}: the tensor {names[0]} is {got} for one row, expected [rows, ...]")
    return {name: shape for name, shape in found.items() if shape is not None and original.types[name] == FLOAT}


def _row_shape(tensor: NDArray[np.float32]) -> Shape | None:
    return tensor.shape[1:] if tensor.ndim > 1 and len(tensor) == 1 and tensor.size else None


def _kind(entry: Entry, tensor: str, shape: Shape, option: str) -> Kind:
    kind = kind_of(shape, _image(entry), entry.layout == "NHWC")
    if kind is None:
        got = in_words([None, *shape])
        raise SourceError(
            f"{option}: the tensor {tensor} is {got}, expected [rows, D], tokens [rows, T, D] or a map [rows, D, h, w]"
        )
    return kind


def _image(entry: Entry) -> ImageInput | None:
    return entry.input if isinstance(entry.input, ImageInput) else None


def _pooling(tensor: str, shape: Shape, kind: Kind, rule: Rule) -> Pooling:
    got = in_words([None, *shape])
    if kind == "tokens":
        if rule not in ("cls", "mean"):
            raise SourceError(
                f"embedding: {tensor} is {got}, a vector for each token: expected {tensor}:cls or {tensor}:mean"
            )
        return rule
    if rule == "cls" or (rule == "mean" and kind == "vector"):
        raise SourceError(f"embedding: got {rule}, expected auto: {tensor} is {got} and has no tokens")
    return "none" if kind == "vector" else "mean"


def _places(file: File, entry: Entry, pooled: Pooled, wanted: str | None) -> Places | None:
    if wanted is None:
        return None
    if (image := _image(entry)) is None:
        raise SourceError(f"patches: got {wanted}, expected none: {entry.name} takes waveforms")
    inside = [name for node in file.model.graph.node for name in node.output if name]
    if wanted != "auto" and wanted not in inside:
        raise SourceError(f"patches: got {wanted!r}, expected auto or a tensor of the file{nearest(wanted, inside)}")
    names = [wanted] if wanted != "auto" else list(_before(file, pooled.tensor))
    for name, shape in _shapes(file, entry, names, "patches").items():
        kind = kind_of(shape, image, entry.layout == "NHWC")
        if kind is not None and (grid := grid_of(shape, kind, image)) is not None:
            return Places(name, kind, grid)
    if wanted == "auto":
        raise SourceError(f"patches: got auto, but no map of places before {pooled.tensor}, expected a tensor's name")
    raise SourceError(f"patches: the tensor {wanted} is no map of places, expected [rows, D, h, w] or [rows, T, D]")


def _before(file: File, tensor: str) -> Iterator[str]:
    """A tensor, and those that it came from, from the last to the first, along the first input that is no weight."""
    made_by = {name: node for node in file.model.graph.node for name in node.output}
    fixed = {one.name for one in file.model.graph.initializer}
    for _ in range(FURTHEST):
        yield tensor
        node = made_by.get(tensor)
        tensor = next((one for one in node.input if one and one not in fixed), "") if node is not None else ""
        if tensor not in made_by:
            return
