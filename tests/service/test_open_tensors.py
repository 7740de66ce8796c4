"""Tensors of the Open Inference Protocol: what fits is read, what does not is named."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentserve.errors import InvalidInput
from service.open_tensors import DATATYPES, datatype, read, read_files, write
from service.stubs import open_inference_grpc_pb2 as pb


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
        np.testing.assert_array_equal(read(request_of(name, (2, 3), response.raw_output_contents[0])), array)


def test_elements_one_by_one_are_the_same_as_bytes() -> None:
    np.testing.assert_array_equal(
        read(request_of("INT16", (2, 2), int_contents=[1, -2, 3, 32767])), [[1, -2], [3, 32767]]
    )
    np.testing.assert_array_equal(read(request_of("FP32", (1, 2), fp32_contents=[0.5, -1])), np.float32([[0.5, -1]]))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_files_stand_behind_their_lengths(files: list[bytes]) -> None:
    num = len(files)
    assert read_files(request_of("BYTES", (num,), lengths(*files))) == files
    assert read_files(request_of("BYTES", (num, 1), bytes_contents=files)) == files


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            request_of("INT64", (1, 1), bytes(8)),
            r"inputs\['input'\].datatype: got 'INT64', expected one of UINT8",
        ),
        (request_of("UINT8", (), b""), r"inputs\['input'\].shape: got \[\], expected axes of size 1 or more"),
        (request_of("UINT8", (2, -1), b""), r"inputs\['input'\].shape: got \[2, -1\]"),
        (request_of("FP32", (2, 2), bytes(8)), r"raw_input_contents\[0\]: got 8 bytes, expected 16 for FP32 \[2, 2\]"),
        (request_of("UINT8", (1, 2), uint_contents=[1]), r"uint_contents: got 1 elements, expected 2 for \[1, 2\]"),
        (
            request_of("UINT8", (1, 1), uint_contents=[256]),
            r"\['input'\].contents: got .*expected elements of UINT8",
        ),
        (request_of("UINT8", (1, 1), b"x", uint_contents=[1]), "raw_input_contents: got 1 and .*nothing beside it"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(request_: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(request_)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (request_of("BYTES", (2, 2), lengths(b"a")), r"shape: got \[2, 2\], expected \[n\] or \[n, 1\]"),
        (request_of("BYTES", (2,), lengths(b"a")), r"inputs\['input'\]: got 1 files, expected 2"),
        (
            request_of("BYTES", (1,), lengths(b"abc")[:-1]),
            r"contents\[0\]: got 6 bytes that end within a file",
        ),
        (request_of("BYTES", (1,), b"\x01\x00"), r"raw_input_contents\[0\]: got 2 bytes that end within a file"),
    ],
)
def test_files_that_do_not_fit_are_named(request_: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_files(request_)
