"""Requests to rows: raw tensors are views of the message, images and sounds are decoded off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.audio import AudioError, decode_audio
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
        expected: what one row is; its modality says how files are decoded.
        limits: held against a request before its items are touched.
        pool: threads for decoding; Pillow lets go of the interpreter lock.

    Attributes:
        spec: of one row.
        limits: of a request.
    """

    def __init__(self, expected: ImageInput | AudioInput, limits: Limits, pool: Executor) -> None:
        self.spec = expected.spec
        self.limits = limits
        self._decode_item = item_decoder(expected, limits)
        self._pool = pool

    async def rows(self, message: pb.Input) -> NDArray[Any]:
        """The rows of a request, n of the model's own input type and shape.

        Raises:
            InvalidInput: whatever is wrong with them: field, got, expected.
        """
        kind = message.WhichOneof("rows")
        if kind == "tensor":
            return self.checked(from_tensor(message.tensor, "input.tensor"), "input.tensor")
        if kind == "encoded":
            return await self.decoded(message.encoded.items, "input.encoded.items")
        raise InvalidInput.at("input", got="no rows", expected="tensor or encoded")

    def checked(self, rows: NDArray[Any], field: str) -> NDArray[Any]:
        """Rows that came as they are. Raises InvalidInput, which names the field, if they are not what is expected."""
        return checked_rows(rows, self.spec, field, self.limits)

    async def decoded(self, given: Sequence[bytes], field: str) -> NDArray[Any]:
        """Rows that came as files. Raises InvalidInput, which names the file by its place in the field."""
        limits = self.limits
        if not 1 <= len(given) <= limits.max_request_rows:
            raise InvalidInput.at(field, got=f"{len(given)} items", expected=f"1 to {limits.max_request_rows}")
        items = list(given)
        for i, item in enumerate(items):
            if len(item) > limits.max_item_bytes:
                got, expected = f"{len(item)} bytes", f"at most {limits.max_item_bytes}"
                raise InvalidInput.at(f"{field}[{i}]", got=got, expected=expected)
        rows = np.empty((len(items), *self.spec.shape), self.spec.dtype)
        loop = asyncio.get_running_loop()
        starts = range(0, len(items), ITEMS_PER_TASK)
        tasks = [loop.run_in_executor(self._pool, self._decode_some, items, rows, start, field) for start in starts]
        await asyncio.gather(*tasks)
        return rows

    def _decode_some(self, items: list[bytes], rows: NDArray[Any], start: int, field: str) -> None:
        for i in range(start, min(start + ITEMS_PER_TASK, len(items))):
            try:
                rows[i] = self._decode_item(items[i])
            except (ImageError, AudioError) as error:
                raise InvalidInput(f"{field}[{i}]: {error}") from error


def item_decoder(expected: ImageInput | AudioInput, limits: Limits) -> Callable[[bytes], NDArray[Any]]:
    """What turns one file into one row. A clip needs no limit of its own: only its window is read."""
    if isinstance(expected, AudioInput):
        return lambda item: decode_audio(item, expected.sample_rate_hz, expected.num_samples)
    height, width, channels = expected.spec.shape
    return lambda item: decode_image(item, height, width, channels, limits.max_item_pixels)


def check_shape(dtype: np.dtype[Any], shape: tuple[int, ...], spec: TensorSpec, field: str, limits: Limits) -> None:
    """What can be said of rows before they are looked at.

    Raises:
        InvalidInput: dtype or shape is not what the model takes, or there are too many.
    """
    if dtype != np.dtype(spec.dtype) or shape[1:] != spec.shape:
        expected = f"{spec.dtype} [n, {', '.join(map(str, spec.shape))}]"
        raise InvalidInput.at(field, got=f"{dtype} {list(shape)}", expected=expected)
    if shape[0] > limits.max_request_rows:
        raise InvalidInput.at(field, got=f"{shape[0]} rows", expected=f"at most {limits.max_request_rows}")


def checked_rows(rows: NDArray[Any], spec: TensorSpec, field: str, limits: Limits) -> NDArray[Any]:
    """The rows themselves, if they are of a given type and shape, not too many, and finite.

    Raises:
        InvalidInput: dtype, shape, size or a value is not what the model takes.
    """
    check_shape(rows.dtype, rows.shape, spec, field, limits)
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
        raise InvalidInput.at(f"{field}[{row}]", got="NaN or infinity", expected="finite numbers")
    return rows
