from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latentserve.errors import InvalidInput
from latentserve.tensors import from_tensor, to_tensor
from latentserve.v1 import embedding_pb2 as pb


@given(
    hnp.arrays(
        st.sampled_from([np.dtype("u1"), np.dtype("<i2"), np.dtype("<f4"), np.dtype(">f4")]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4),
    )
)
def test_arrays_survive_the_wire_bit_for_bit(array: np.ndarray) -> None:  # type: ignore[type-arg]
    back = from_tensor(pb.Tensor.FromString(to_tensor(array).SerializeToString()), "x")
    assert back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)


def test_rows_that_are_not_contiguous_survive() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::-1].transpose(0, 2, 1)
    np.testing.assert_array_equal(from_tensor(to_tensor(array), "x"), array)


def test_reading_is_a_view() -> None:
    assert from_tensor(to_tensor(np.zeros(1000, np.uint8)), "x").base is not None


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (pb.Tensor(shape=[1], data=b"a"), r"x.dtype: got DATA_TYPE_UNSPECIFIED, expected one of DATA_TYPE_UINT8"),
        (pb.Tensor(dtype=77, shape=[1], data=b"a"), "x.dtype: got 77"),  # type: ignore[arg-type]
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, data=b""), r"x.shape: got \[\]"),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[0, 4]), r"x.shape: got \[0, 4\], expected axes of size 1"),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[-1, -4], data=b"abcd"), "x.shape"),
        (pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2, 2], data=b"abc"), "x.data: got 3 bytes, expected 16 bytes"),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[2**40, 2**40], data=b"abc"), "x.data: got 3 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(tensor: pb.Tensor, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        from_tensor(tensor, "x")


def test_a_type_the_wire_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidInput, match="got float64, expected one of uint8, int16, float32"):
        to_tensor(np.zeros(3))
