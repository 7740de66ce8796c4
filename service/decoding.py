"""Requests to rows: raw tensors are views of the message, JPEG and PNG are decoded off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput
from latentserve.images import ImageError, decode_image
from latentserve.inputs import AudioInput, ImageInput, TensorSpec
from latentserve.tensors import from_tensor
from latentserve.v1 import embedding_pb2 as pb

ITEMS_PER_TASK = 8
"""Items decoded in one go by a thread: enough to hide the cost of handing them over."""


@dataclass(frozen=True)
class Limits:
    """What one request may bring."""

    max_request_rows: int
    max_item_bytes: int
    max_item_pixels: int


class Decoder:
    """Turns the input messages of one model into rows.

    Args:
        expected: what one row is.
        limits: held against a request before its pixels are touched.
        pool: threads for decoding images; Pillow lets go of the interpreter lock.
    """

    def __init__(self, expected: ImageInput | AudioInput, limits: Limits, pool: Executor) -> None:
        self._expected = expected
        self._limits = limits
        self._pool = pool

    async def rows(self, message: pb.Input) -> NDArray[Any]:
        """The rows of a request, [n, height, width, channels], uint8.

        Raises:
            InvalidInput: whatever is wrong with them: field, got, expected.
        """
        kind = message.WhichOneof("rows")
        if kind == "tensor":
            return checked_rows(message.tensor, self._expected.spec, "input.tensor", self._limits)
        if kind == "encoded":
            return await self._decode(list(message.encoded.items))
        raise InvalidInput.at("input", got="no rows", expected="tensor or encoded")

    async def _decode(self, items: list[bytes]) -> NDArray[np.uint8]:
        limits = self._limits
        if not 1 <= len(items) <= limits.max_request_rows:
            raise InvalidInput.at(
                "input.encoded.items", got=f"{len(items)} items", expected=f"1 to {limits.max_request_rows}"
            )
        for i, item in enumerate(items):
            if len(item) > limits.max_item_bytes:
                raise InvalidInput.at(
                    f"input.encoded.items[{i}]",
                    got=f"{len(item)} bytes",
                    expected=f"at most {limits.max_item_bytes}",
                )
        rows = np.empty((len(items), *self._expected.spec.shape), np.uint8)
        loop = asyncio.get_running_loop()
        starts = range(0, len(items), ITEMS_PER_TASK)
        tasks = [loop.run_in_executor(self._pool, self._decode_some, items, rows, start) for start in starts]
        await asyncio.gather(*tasks)
        return rows

    def _decode_some(self, items: list[bytes], rows: NDArray[np.uint8], start: int) -> None:
        shape = self._expected
        assert isinstance(shape, ImageInput)
        for i in range(start, min(start + ITEMS_PER_TASK, len(items))):
            try:
                rows[i] = decode_image(
                    items[i], shape.height, shape.width, shape.channels, self._limits.max_item_pixels
                )
            except ImageError as error:
                raise InvalidInput(f"input.encoded.items[{i}]: {error}") from error


def checked_rows(message: pb.Tensor, spec: TensorSpec, field: str, limits: Limits) -> NDArray[Any]:
    """A tensor message as rows of a given type and shape, finite.

    Raises:
        InvalidInput: dtype, shape, size or a value is not what the model takes.
    """
    rows = from_tensor(message, field)
    expected = f"{spec.dtype} [n, {', '.join(map(str, spec.shape))}]"
    if rows.dtype != np.dtype(spec.dtype) or rows.shape[1:] != spec.shape:
        raise InvalidInput.at(field, got=f"{rows.dtype} {list(rows.shape)}", expected=expected)
    if len(rows) > limits.max_request_rows:
        raise InvalidInput.at(field, got=f"{len(rows)} rows", expected=f"at most {limits.max_request_rows}")
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
        raise InvalidInput.at(f"{field}[{row}]", got="NaN or infinity", expected="finite numbers")
    return rows
