"""numpy arrays to protobuf tensors and back.

Raw little-endian bytes, never lists of floats: reading is a view of the message, writing is one copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput
from latentserve.v1 import embedding_pb2 as pb

DTYPES: dict[pb.DataType, np.dtype[Any]] = {
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
    pb.DATA_TYPE_INT16: np.dtype("<i2"),
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
MOST_AXES = 8
"""Axes of a tensor in a request; numpy has at most 64, and models here have at most 4."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def data_type(dtype: np.dtype[Any]) -> pb.DataType:
    """The wire name of a numpy dtype.

    Raises:
        InvalidInput: the wire has no such type.
    """
    try:
        return _CODES[dtype.newbyteorder("<")]
    except KeyError:
        names = ", ".join(str(known) for known in _CODES)
        raise InvalidInput.at("dtype", got=dtype, expected=f"one of {names}") from None


def to_tensor(array: NDArray[Any]) -> pb.Tensor:
    """Copies an array into a message."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(dtype=data_type(array.dtype), shape=array.shape, data=little.tobytes())


def from_tensor(tensor: pb.Tensor, field: str) -> NDArray[Any]:
    """A read-only view of a message's bytes.

    Args:
        tensor: the message.
        field: its name in the request, for the error.

    Raises:
        InvalidInput: unknown dtype, an axis of size 0 or below, or bytes that do not fit the shape.
    """
    return view_of(tensor, *kind_of(tensor, field), field)


def view_of(tensor: pb.Tensor, dtype: np.dtype[Any], shape: tuple[int, ...], field: str) -> NDArray[Any]:
    """As `from_tensor`, of a message whose kind is known."""
    expected = math.prod(shape) * dtype.itemsize
    data = tensor.data  # each time it is asked for it is copied
    if len(data) != expected:
        raise InvalidInput.at(
            f"{field}.data",
            got=f"{len(data)} bytes",
            expected=f"{expected} bytes for {dtype} {list(shape)}",
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def kind_of(tensor: pb.Tensor, field: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of a message, whose bytes are not touched. Raises InvalidInput as `from_tensor`."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(pb.DataType.Name(code) for code in DTYPES)
        raise InvalidInput.at(f"{field}.dtype", got=_dtype_name(tensor.dtype), expected=f"one of {known}")
    return dtype, checked_shape(tensor.shape, field)


def checked_shape(sizes: Sequence[int], field: str) -> tuple[int, ...]:
    """Sizes of axes as they came. Raises InvalidInput if there are none, too many, or one is less than 1."""
    if not sizes or len(sizes) > MOST_AXES or min(sizes) < 1:
        got = list(sizes) if len(sizes) <= MOST_AXES else f"{len(sizes)} axes"
        raise InvalidInput.at(f"{field}.shape", got=got, expected="axes of size 1 or more, rows first")
    return tuple(sizes)


def _dtype_name(code: int) -> str:
    try:
        return str(pb.DataType.Name(code))
    except ValueError:
        return str(code)
