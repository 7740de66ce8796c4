"""Tensors of the Open Inference Protocol: what fits is read, what does not is named."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentserve.errors import InvalidInput
from latentserve.inputs import TensorSpec
from service.api.open_inference.stubs import open_inference_grpc_pb2 as pb
from service.api.open_inference.tensors import DATATYPES, datatype, read_files, shape_of, show, write
from service.models.decoding import Limits


def request_of(
    datatype: str, shape: tuple[int, ...], raw: bytes | None = None, **contents: Any
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="input", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


LIMITS = Limits(max_request_rows=100, max_item_bytes=100, max_item_pixels=100)


def rows_of(request: pb.ModelInferRequest, dtype: Any, *shape: int) -> Any:
    shown = show(request, shape_of(request, TensorSpec("input", dtype, shape), LIMITS))
    for piece in range(shown.num_pieces):
        assert shown.fill is not None
        shown.fill(piece)
    return shown.rows


def lengths(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


@pytest.mark.parametrize("name", DATATYPES)
def test_what_is_written_is_what_is_read(name: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(DATATYPES[name])
    response = pb.ModelInferResponse()
    write(response, "x", array.astype(array.dtype.newbyteorder(">")))
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype(array.dtype), [2, 3])
    got = np.frombuffer(response.raw_output_contents[0], DATATYPES[output.datatype]).reshape(output.shape)
    np.testing.assert_array_equal(got, array)
    if name in ("UINT8", "INT16", "FP32"):
        given = request_of(name, (2, 3), response.raw_output_contents[0])
        np.testing.assert_array_equal(rows_of(given, array.dtype.name, 3), array)


def test_elements_one_by_one_are_the_same_as_bytes() -> None:
    whole = request_of("INT16", (2, 2), int_contents=[1, -2, 3, 32767])
    np.testing.assert_array_equal(rows_of(whole, "int16", 2), [[1, -2], [3, 32767]])
    halves = request_of("FP32", (1, 2), fp32_contents=[0.5, -1])
    np.testing.assert_array_equal(rows_of(halves, "float32", 2), np.float32([[0.5, -1]]))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_files_stand_behind_their_lengths(files: list[bytes]) -> None:
    num = len(files)
    assert read_files(request_of("BYTES", (num,), lengths(*files)), LIMITS) == files
    assert read_files(request_of("BYTES", (num, 1), bytes_contents=files), LIMITS) == files


@pytest.mark.parametrize(
    ("request_", "spec", "message"),
    [
        (request_of("INT64", (1, 1), bytes(8)), ("uint8", 1), r"datatype: got 'INT64', expected one of UINT8"),
        (request_of("UINT8", (), b""), ("uint8", 1), r"inputs\['input'\].shape: got \[\], expected axes of size 1 or"),
        (request_of("UINT8", (2, -1), b""), ("uint8", 1), r"inputs\['input'\].shape: got \[2, -1\]"),
        (request_of("UINT8", (1,) * 65, b"x"), ("uint8", 1), "shape: got 65 axes, expected axes of size 1 or more"),
        (request_of("UINT8", (2, 3), b"x"), ("uint8", 2), r"got uint8 \[2, 3\], expected uint8 \[n, 2\]"),
        (request_of("UINT8", (2, 2), b"x"), ("float32", 2), r"got uint8 \[2, 2\], expected float32 \[n, 2\]"),
        (request_of("UINT8", (101, 1), b"x"), ("uint8", 1), "got 101 rows, expected at most 100"),
        (request_of("FP32", (2, 2), bytes(8)), ("float32", 2), r"contents\[0\]: got 8 bytes, expected 16 for FP32"),
        (request_of("UINT8", (1, 2), uint_contents=[1]), ("uint8", 2), "uint_contents: got 1 elements, expected 2 for"),
        (request_of("UINT8", (1, 1), uint_contents=[256]), ("uint8", 1), "contents: .*expected elements of UINT8"),
        (
            request_of("UINT8", (1, 1), b"x", uint_contents=[1]),
            ("uint8", 1),
            "raw_input_contents: got 1 and .*beside it",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    request_: pb.ModelInferRequest, spec: tuple[str, int], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        rows_of(request_, *spec)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (request_of("BYTES", (2, 2), lengths(b"a")), r"shape: got \[2, 2\], expected \[n\] or \[n, 1\]"),
        (request_of("BYTES", (2,), lengths(b"a")), r"inputs\['input'\]: got 1 files, expected 2"),
        (request_of("BYTES", (101,), lengths(b"a")), "got 101 files, expected at most 100"),
        (request_of("BYTES", (1,), lengths(*[b""] * 10**5)), "got 2 files, expected 1"),  # no more of them are cut
        (request_of("BYTES", (1,), lengths(b"abc")[:-1]), r"contents\[0\]: got 6 bytes that end within a file"),
        (request_of("BYTES", (1,), b"\x01\x00"), r"raw_input_contents\[0\]: got 2 bytes that end within a file"),
    ],
)
def test_files_that_do_not_fit_are_named(request_: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_files(request_, LIMITS)
