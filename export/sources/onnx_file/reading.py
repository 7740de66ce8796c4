"""Reads an ONNX file of somebody else's, and says at once what stands in the way."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from export.sources.source import SourceError
from latentserve.records import printable

LARGEST_BYTES = 2**31 - 1
"""Of a protobuf message, so of an ONNX file that needs no other one."""
OLDEST_OPSET = 7
"""Older ones broadcast by other rules, and ONNX Runtime does not promise to run them."""
PACKED = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1)
"""Two numbers to a byte."""
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Whose operators ONNX Runtime brings with it, and so the service."""


@dataclass(frozen=True)
class File:
    """An ONNX file that was read.

    Attributes:
        path: of it.
        model: with all weights in it, and none of its functions.
        sha256: of the file, and of those beside it that hold its weights.
    """

    path: Path
    model: onnx.ModelProto
    sha256: str

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return _opset(self.model)


def read(argument: str) -> File:
    """Reads a file, and what lies beside it.

    Raises:
        SourceError: it is no ONNX file, too large, has weights or operators that are not there, or is too old.
    """
    path = Path(argument).expanduser()
    name = printable(argument)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise SourceError(f"onnx: {name}: got {got}, expected an ONNX file")
    if path.stat().st_size > LARGEST_BYTES:
        raise SourceError(_too_large(name, path.stat().st_size))
    model = _parsed(path, name)
    outside = _outside(model, path)
    _take_in(model, path)
    _check_operators(model, name)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return File(path, model, _sha256([path, *outside]))


def _parsed(path: Path, name: str) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise SourceError(f"onnx: {name}: got a file that is no ONNX, expected one") from None
    except OSError as error:
        raise SourceError(f"onnx: {name}: got a file that cannot be read ({error.strerror})") from None
    if not model.graph.node or not model.opset_import:
        raise SourceError(f"onnx: {name}: got a file without a graph of operators, expected an ONNX model")
    return model


def _too_large(name: str, num_bytes: int) -> str:
    return (
        f"onnx: {name}: got {num_bytes / 2**30:.1f} GiB of weights, expected less than 2 GiB: a bundle's encoder is one"
        " ONNX file; convert the weights to 16-bit floats, or take a smaller network"
    )


def _outside(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files beside it that hold weights, in the order of their names."""
    places = {
        {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        for tensor in tensors(model.graph)
        if uses_external_data(tensor)
    }
    found = []
    for place in sorted(places):
        beside = path.parent / place
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise SourceError(f"onnx: {path.name}: got weights in {place!r}, expected them in a file beside it")
        if not beside.is_file():
            raise SourceError(
                f"onnx: {path.name}: got no file {place!r} beside it, which holds weights of it, expected one"
            )
        homes = (path.parent.resolve(), path.resolve().parent)  # of a link the second: a cache keeps files elsewhere
        if not any(beside.resolve().is_relative_to(home) for home in homes):
            raise SourceError(f"onnx: {path.name}: got weights in {place!r}, a link out of its folder, expected a file")
        found.append(beside)
    num_bytes = sum(one.stat().st_size for one in [path, *found])
    if num_bytes > LARGEST_BYTES:
        raise SourceError(_too_large(path.name, num_bytes))
    return found


def _take_in(model: onnx.ModelProto, path: Path) -> None:
    """Reads weights that lie beside the file into the model. onnx's own function reads no links."""
    for tensor in tensors(model.graph):
        if not uses_external_data(tensor):
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        with (path.parent / said["location"]).open("rb") as file:
            file.seek(int(said.get("offset", 0)))
            tensor.raw_data = file.read(int(said.get("length", -1)))
        num_bytes = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if tensor.data_type not in PACKED and len(tensor.raw_data) != num_bytes:
            raise SourceError(
                f"onnx: {path.name}: got {len(tensor.raw_data)} bytes of the weight {tensor.name} in"
                f" {said['location']!r}, expected {num_bytes}: is that file whole?"
            )
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _opset(model: onnx.ModelProto) -> int:
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    """Raises SourceError unless ONNX Runtime has heard of every operator."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= _opset(model) <= newest:
        raise SourceError(
            f"onnx: {name}: got opset {_opset(model)}, expected {OLDEST_OPSET} to {newest} (onnx {onnx.__version__}):"
            " convert it with onnx.version_converter, or export it anew"
        )
    own = {(one.domain, one.name) for one in model.functions}
    for node in (*nodes(model.graph), *(node for one in model.functions for node in one.node)):
        if (node.domain, node.op_type) in own:
            continue
        standard = node.domain in ("", "ai.onnx")
        if node.domain not in DOMAINS or (standard and not onnx.defs.has(node.op_type, "")):
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise SourceError(
                f"onnx: {name}: got the operator {operator} (node {node.name or node.output[0]}), expected those of"
                " ONNX and ONNX Runtime alone: the service runs no custom ones"
            )


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of inner graphs included."""
    for node in graph.node:
        yield node
        for inner in inner_graphs(node):
            yield from nodes(inner)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs of an If, a Loop or a Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def read_by(node: onnx.NodeProto) -> set[str]:
    """Names of what a node reads, and what may be of its inner graphs' surroundings."""
    names = set(node.input)
    for inner in inner_graphs(node):
        names |= {one.name for one in inner.output}.union(*(read_by(one) for one in inner.node))
    return names


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a graph holds."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for inner in inner_graphs(node):
            yield from tensors(inner)


def nearest(name: str, known: Iterable[str]) -> str:
    """What could have been meant, in words."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" (nearest: {', '.join(close)})" if close else ""
