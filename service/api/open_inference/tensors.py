"""Tensors of the Open Inference Protocol to numpy arrays and back.

Elements come as bytes, beside the inputs, or one by one inside them. They always go as bytes: NVIDIA's client decodes
nothing else.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput
from latentserve.inputs import TensorSpec
from latentserve.tensors import checked_shape
from service.api.open_inference.stubs import open_inference_grpc_pb2 as pb
from service.models.decoding import Limits, Shown, check_shape

BYTES = "BYTES"
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT16": np.dtype("<i2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_CONTENTS = {"UINT8": "uint_contents", "INT16": "int_contents", "FP32": "fp32_contents"}
"""Where the elements of what may come in are, if they come one by one."""
ELEMENTS_OF_A_PIECE = 8192
"""That came one by one: 0.7 ms, in which the interpreter lock is not released."""
_LENGTH = struct.Struct("<I")


def datatype(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a numpy dtype."""
    return _NAMES[dtype.newbyteorder("<")]


def shape_of(request: pb.ModelInferRequest, spec: TensorSpec, limits: Limits) -> tuple[int, ...]:
    """Shape of the one input of a request; no element is touched.

    Raises:
        InvalidInput: type or shape are not what is expected.
    """
    tensor = request.inputs[0]
    field = f"inputs[{tensor.name!r}]"
    if tensor.datatype not in _CONTENTS:
        expected = f"one of {', '.join(_CONTENTS)}, or BYTES for files"
        raise InvalidInput.at(f"{field}.datatype", got=repr(tensor.datatype), expected=expected)
    shape = _shape(tensor, field)
    check_shape(DATATYPES[tensor.datatype], shape, spec, field, limits)
    return shape


def show(request: pb.ModelInferRequest, shape: tuple[int, ...]) -> Shown:
    """The one input of a request, a view of its bytes where it came as such; its shape is `shape_of` it.

    Raises:
        InvalidInput: the elements do not fit the shape.
    """
    tensor = request.inputs[0]
    field, dtype = f"inputs[{tensor.name!r}]", DATATYPES[tensor.datatype]
    raw, size = _raw(request, field), math.prod(shape)
    if raw is None:
        elements = getattr(tensor.contents, _CONTENTS[tensor.datatype])
        if len(elements) != size:
            got, expected = f"{len(elements)} elements", f"{size} for {list(shape)}"
            raise InvalidInput.at(f"{field}.contents.{_CONTENTS[tensor.datatype]}", got=got, expected=expected)
        flat = np.empty(size, dtype)
        work = partial(_convert, elements, flat, field, tensor.datatype)
        return Shown(flat.reshape(shape), work, -(-size // ELEMENTS_OF_A_PIECE))
    if len(raw) != size * dtype.itemsize:
        got, expected = f"{len(raw)} bytes", f"{size * dtype.itemsize} for {tensor.datatype} {list(shape)}"
        raise InvalidInput.at("raw_input_contents[0]", got=got, expected=expected)
    return Shown(np.frombuffer(raw, dtype).reshape(shape))


def _convert(elements: Any, flat: NDArray[Any], field: str, datatype: str, piece: int) -> None:
    start, stop = piece * ELEMENTS_OF_A_PIECE, (piece + 1) * ELEMENTS_OF_A_PIECE
    try:
        flat[start:stop] = elements[start:stop]
    except OverflowError as error:
        raise InvalidInput.at(f"{field}.contents", got=error, expected=f"elements of {datatype}") from error


def read_files(request: pb.ModelInferRequest, limits: Limits) -> list[bytes]:
    """The one input of a request of type BYTES, [n] or [n, 1]: one file a row.

    Raises:
        InvalidInput: another shape, too many files, or not as many as the shape says.
    """
    tensor = request.inputs[0]
    field = f"inputs[{tensor.name!r}]"
    shape = _shape(tensor, field)
    if shape[1:] not in ((), (1,)):
        raise InvalidInput.at(f"{field}.shape", got=list(shape), expected="[n] or [n, 1]: one file a row")
    if shape[0] > limits.max_request_rows:
        raise InvalidInput.at(field, got=f"{shape[0]} files", expected=f"at most {limits.max_request_rows}")
    raw = _raw(request, field)
    files = tensor.contents.bytes_contents if raw is None else _split(raw, shape[0])
    if len(files) != shape[0]:
        raise InvalidInput.at(field, got=f"{len(files)} files", expected=f"{shape[0]} for shape {list(shape)}")
    return list(files)


def write(response: pb.ModelInferResponse, name: str, array: NDArray[Any]) -> None:
    """Adds an output."""
    response.outputs.add(name=name, datatype=datatype(array.dtype), shape=array.shape)
    response.raw_output_contents.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _shape(tensor: pb.ModelInferRequest.InferInputTensor, field: str) -> tuple[int, ...]:
    shape = checked_shape(tensor.shape, field)
    if tensor.parameters:
        raise InvalidInput.at(f"{field}.parameters", got=sorted(tensor.parameters), expected="none")
    return shape


def _raw(request: pb.ModelInferRequest, field: str) -> bytes | None:
    """The bytes of the one input, or None if its elements came one by one."""
    contents = request.raw_input_contents
    if not contents:
        return None
    if len(contents) != 1 or request.inputs[0].HasField("contents"):
        got = f"{len(contents)} and {field}.contents" if len(contents) == 1 else len(contents)
        raise InvalidInput.at("raw_input_contents", got=got, expected="one for the one input, and nothing beside it")
    raw: bytes = contents[0]
    return raw


def _split(raw: bytes, num: int) -> list[bytes]:
    """Files from bytes in which each stands behind its length; one more than `num` is enough to know."""
    files, at = list[bytes](), 0
    while at < len(raw) and len(files) <= num:
        end = at + _LENGTH.size
        if end > len(raw) or end + _LENGTH.unpack_from(raw, at)[0] > len(raw):
            got, expected = f"{len(raw)} bytes that end within a file", "each file behind its length in 4 bytes"
            raise InvalidInput.at("raw_input_contents[0]", got=got, expected=expected)
        (size,) = _LENGTH.unpack_from(raw, at)
        files.append(raw[end : end + size])
        at = end + size
    return files
