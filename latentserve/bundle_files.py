"""Checks a file of a bundle before it is used: it exists, is unchanged, and needs no other file.

A tensor of an ONNX graph may lie in another file (`TensorProto.data_location`). Such a file is in no manifest: it could
change under the same `embedding_space`, and its path may lead anywhere. ONNX Runtime reads it silently.

The file is walked over field by field as the wire format of protobuf says, so that neither `onnx` nor the weights in
memory are needed. Numbers of fields: https://github.com/onnx/onnx/blob/v1.19.0/onnx/onnx.proto; wire types:
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import BundleError

Field = tuple[int, int, int, int]
"""Number, wire type, and where its value begins and ends; of a varint: the number itself and nothing."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
TENSOR = "tensor"
WITHIN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: TENSOR, 6: "graph", 10: TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: TENSOR, 2: TENSOR},
}
"""Which fields of a message lead to tensors."""
NAME, EXTERNAL_DATA, DATA_LOCATION = 8, 13, 14
EXTERNAL = 1


HAVE_DATA = ("provenance", "evaluations")
"""Fields of a manifest that name data."""


class NotOnnx(ValueError):
    """The bytes are not a protobuf message."""


def check_file(folder: Path, name: str, expected: str) -> None:
    """Verifies that a file has the expected sha256.

    Raises:
        BundleError: it is in another folder, missing, no plain file, not readable, or has another sha256.
    """
    if Path(name).name != name:
        raise BundleError(f"{folder}: got file name {name!r}, expected one without folders")
    check_plain(folder / name)
    try:
        got = sha256_of_file(folder / name)
    except OSError as error:
        raise BundleError(f"{folder / name}: missing or not readable ({error.strerror})") from error
    if got != expected:
        raise BundleError(f"{folder / name}: sha256: got {got}, expected {expected}")


def check_plain(path: Path) -> None:
    """Raises BundleError unless it is a plain file: reading a pipe or a device may never end."""
    try:
        if not path.exists():
            raise BundleError(f"{path}: missing or not readable (No such file or directory)")
        if not path.is_file():
            raise BundleError(f"{path}: got something that is no file, expected a file")
    except OSError as error:
        raise BundleError(f"{path}: missing or not readable ({error.strerror})") from error


def check_text(path: Path, manifest: dict[str, Any]) -> None:
    """Raises BundleError unless what goes into answers is text; data may have a name of bytes: `records.printable`."""
    for name, value in manifest.items():
        sent = value if name not in HAVE_DATA else _without(("data", "config"), value)
        try:
            json.dumps(sent, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BundleError(f"{path}: {name}: got {error.object[error.start]!r} in it, expected UTF-8") from error


def _without(names: tuple[str, ...], value: Any) -> Any:
    if isinstance(value, list):
        return [_without(names, one) for one in value]
    return {name: one for name, one in value.items() if name not in names} if isinstance(value, dict) else value


def check_graph(path: Path) -> None:
    """Verifies that a graph is an ONNX file that contains all of its weights.

    Raises:
        BundleError: it is not.
    """
    if path.suffix != ".onnx":  # ONNX Runtime reads other formats by other suffixes
        raise BundleError(f"{path}: got a graph of suffix {path.suffix!r}, expected '.onnx'")
    try:
        outside = first_external(path)
    except NotOnnx as error:
        raise BundleError(f"{path}: got a file that is no ONNX ({error}), expected one") from error
    except OSError as error:
        raise BundleError(f"{path}: missing or not readable ({error.strerror})") from error
    if outside is not None:
        raise BundleError(
            f"{path}: got a graph that keeps the tensor {outside!r} in another file, expected all weights in the"
            " graph's own: save it without external data"
        )


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embedding_space(encoder_sha256: str) -> str:
    """Identity of an embedding space: two encoders are the same if their graphs are, bit for bit."""
    return f"es1-{encoder_sha256[:32]}"


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; pickles are rejected.

    Raises:
        BundleError: the file cannot be read or holds a pickle.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib raise a dozen classes for a damaged file
        raise BundleError(f"{path}: cannot be read: {error}") from error


def first_external(path: Path) -> str | None:
    """The name of a tensor whose values lie in another file; None if there is none.

    Raises:
        NotOnnx: the file is empty, truncated, or not a protobuf message.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise NotOnnx(str(error)) from error
    with mapped as data:
        waiting = [("model", 0, len(data))]
        while waiting:
            kind, start, end = waiting.pop()
            if kind == TENSOR:
                if (name := _external_name(data, start, end)) is not None:
                    return name
                continue
            for number, wire, first, last in _fields(data, start, end):
                if wire == BYTES and number in WITHIN[kind]:
                    waiting.append((WITHIN[kind][number], first, last))
    return None


def _external_name(data: mmap.mmap, start: int, end: int) -> str | None:
    """The name of a tensor, if its values lie in another file."""
    name, external = "", False
    for number, wire, first, last in _fields(data, start, end):
        if (number, wire) == (NAME, BYTES):
            name = data[first:last].decode("utf-8", "replace")
        # what stands there twice counts by the last one, which is not relied on here: one is enough
        external |= (number, wire, first) == (DATA_LOCATION, VARINT, EXTERNAL) or (number, wire) == (
            EXTERNAL_DATA,
            BYTES,
        )
    return name if external else None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    while start < end:
        key, start = _varint(data, start, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, start = _varint(data, start, end)
            yield number, wire, value, 0
            continue
        if wire == BYTES:
            size, start = _varint(data, start, end)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise NotOnnx(f"wire type {wire} at byte {start}")
        if start + size > end:
            raise NotOnnx(f"a field at byte {start} is longer than what it is in")
        yield number, wire, start, start + size
        start += size


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """The number, and where what follows begins."""
    value = shift = 0
    for at in range(start, min(end, start + 10)):  # 64 bits, seven in a byte
        value |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            return value, at + 1
    raise NotOnnx(f"a number at byte {start} has no end")
