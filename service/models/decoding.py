"""Requests to rows: what they need is known first, then tensors are viewed, images and sounds decoded in threads."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.audio import AudioError, decode_audio
from latentserve.errors import InvalidInput
from latentserve.images import ImageError, decode_image, image_pixels
from latentserve.inputs import AudioInput, ImageInput, TensorSpec
from latentserve.tensors import kind_of, view_of
from latentserve.v1 import embedding_pb2 as pb
from service.scheduling.decoding_queue import ITEM_WEIGHT, DecodingQueue

LOOP_ITEMS, LOOP_BYTES = 8, 2**15
"""Of requests up to this the event loop reads the headers: 20 us each, 10 ms of the most spiteful file of that size.
Handing them to a thread costs 100 us."""
PATIENT = math.inf, 0
"""Deadline and priority of a request without either."""
LOOP_WEIGHT = 100_000
"""What of a tensor's elements the event loop works through, in pixels of a JPEG: 1.2 ms."""
PIECE_WEIGHT = 60_000
"""Of `open_inference.tensors.ELEMENTS_OF_A_PIECE`: 0.7 ms."""
ITEM_ERRORS = (ImageError, AudioError)
"""What a file is to blame for."""
FLOATS_OF_A_PIXEL = 16
"""Numbers that are looked through while a pixel of a JPEG is decoded."""


@dataclass(frozen=True)
class Limits:
    """What one request may bring: `max_request_pixels` is of all its images together."""

    max_request_rows: int
    max_item_bytes: int
    max_item_pixels: int
    max_request_pixels: int = 500_000_000


@dataclass(frozen=True)
class Shown:
    """Rows as they came.

    Attributes:
        rows: a view of the message; or empty, to be filled piece by piece.
        fill: fills a piece, in a thread.
        num_pieces: how many there are.
    """

    rows: NDArray[Any]
    fill: Callable[[int], None] | None = None
    num_pieces: int = 0


@dataclass(frozen=True)
class Arriving:
    """Rows that are still in their message: what they will take is known, nothing of them has been touched.

    Attributes:
        num_rows: how many.
        size_bytes: of them as rows.
        read: returns them, by the client's deadline and priority. Raises InvalidInput that names the field.
    """

    num_rows: int
    size_bytes: int
    read: Callable[[float, int], Awaitable[NDArray[Any]]]


class Decoder:
    """DecodingQueue the input messages of one model into rows.

    Args:
        expected: what one row is; its modality says how files are decoded.
        limits: held against a request before its items are touched.
        threads: that decode, or the queue before them which the models of a server share. Pillow and libsndfile release
            the interpreter lock.

    Attributes:
        spec: of one row.
        limits: of a request.
    """

    def __init__(self, expected: ImageInput | AudioInput, limits: Limits, threads: Executor | DecodingQueue) -> None:
        self.spec = expected.spec
        self.limits = limits
        self._expected = expected
        self._queue = threads if isinstance(threads, DecodingQueue) else DecodingQueue(threads)

    def arriving(self, message: pb.Input, size_bytes: int) -> Arriving:
        """What a request's input, a message of so many bytes, will take.

        Raises:
            InvalidInput: neither rows nor files, of another type or shape, or too many.
        """
        kind = message.WhichOneof("rows")
        if kind == "tensor":
            return self.arriving_tensor(message.tensor, self.spec, "input.tensor")
        if kind == "encoded":
            return self.arriving_files(message.encoded.items, size_bytes, "input.encoded.items")
        raise InvalidInput.at("input", got="no rows", expected="tensor or encoded")

    def arriving_tensor(self, tensor: pb.Tensor, spec: TensorSpec, field: str) -> Arriving:
        """What rows of the model's input or latents will take. Raises InvalidInput: another type or shape, too many."""
        dtype, shape = kind_of(tensor, field)
        check_shape(dtype, shape, spec, field, self.limits)
        return self.arriving_rows(shape[0], spec, field, lambda: Shown(view_of(tensor, dtype, shape, field)))

    def arriving_rows(self, num: int, spec: TensorSpec, field: str, show: Callable[[], Shown]) -> Arriving:
        """What rows that `show` shows will take. What would hold up the event loop is done in threads."""

        async def read(deadline: float, priority: int) -> NDArray[Any]:
            shown = show()
            rows, fill = shown.rows, shown.fill
            if fill is not None:
                await self._some(fill, [PIECE_WEIGHT] * shown.num_pieces, deadline, priority)
            if rows.dtype.kind == "f":
                weight = ITEM_WEIGHT + rows.size // FLOATS_OF_A_PIXEL
                await self._some(lambda _: finite_rows(rows, field), [weight], deadline, priority)
            return rows

        return Arriving(num, num * row_bytes(spec), read)

    async def _some(self, work: Callable[[int], Any], weights: list[int], deadline: float, priority: int) -> None:
        """Does a little work at once, more of it in threads."""
        if sum(weights) > LOOP_WEIGHT:
            await self._queue.take(work, weights, deadline, priority, counted=False)
            return
        for place in range(len(weights)):
            work(place)

    def arriving_files(self, given: Sequence[bytes], size_bytes: int, field: str) -> Arriving:
        """What files will take. Raises InvalidInput if there are none or too many.

        Args:
            given: the files; one is not touched before its turn comes.
            size_bytes: of all of them.
            field: their name in the request.
        """
        num, most = len(given), self.limits.max_request_rows
        if not 1 <= num <= most:
            raise InvalidInput.at(field, got=f"{num} items", expected=f"1 to {most}")

        async def read(deadline: float, priority: int) -> NDArray[Any]:
            return await self._decoded(given, size_bytes, field, deadline, priority)

        return Arriving(num, num * row_bytes(self.spec), read)

    async def rows(self, message: pb.Input) -> NDArray[Any]:
        """The rows of a request, n of the model's own input type and shape.

        Raises:
            InvalidInput: whatever is wrong with them: field, got, expected.
        """
        return await self.arriving(message, message.ByteSize()).read(*PATIENT)

    async def decoded(self, given: Sequence[bytes], field: str) -> NDArray[Any]:
        """Rows that came as files. Raises InvalidInput, which names the file by its place in the field."""
        return await self.arriving_files(given, sum(map(len, given)), field).read(*PATIENT)

    async def _decoded(
        self, given: Sequence[bytes], size_bytes: int, field: str, deadline: float, priority: int
    ) -> NDArray[Any]:
        queue = self._queue
        with queue.room(size_bytes, 0, priority):
            sizes = [0] * len(given)
            look = partial(self._look, given, sizes, field)
            if len(given) <= LOOP_ITEMS and size_bytes <= LOOP_BYTES:
                for place in range(len(given)):
                    look(place)
            else:
                await queue.take(look, [ITEM_WEIGHT] * len(given), deadline, priority, counted=False)
            if (pixels := sum(sizes)) > (most := self.limits.max_request_pixels):
                raise InvalidInput.at(field, got=f"{pixels} pixels in all", expected=f"at most {most} in a request")
            with queue.room(0, pixels, priority):
                rows = np.empty((len(given), *self.spec.shape), self.spec.dtype)
                weights = [ITEM_WEIGHT + size for size in sizes]
                await queue.take(partial(self._decode, given, rows, field), weights, deadline, priority)
        return rows

    def _look(self, given: Sequence[bytes], sizes: list[int], field: str, place: int) -> None:
        """Pixels of one file by its header, to be decoded."""
        item = given[place]
        if len(item) > self.limits.max_item_bytes:
            got, expected = f"{len(item)} bytes", f"at most {self.limits.max_item_bytes}"
            raise InvalidInput.at(f"{field}[{place}]", got=got, expected=expected)
        if isinstance(self._expected, AudioInput):  # only its window is decoded
            return
        try:
            sizes[place] = image_pixels(item, self.limits.max_item_pixels)
        except ImageError as error:
            raise InvalidInput(f"{field}[{place}]: {error}") from error

    def _decode(self, given: Sequence[bytes], rows: NDArray[Any], field: str, place: int) -> None:
        try:
            rows[place] = decoded(given[place], self._expected, self.limits)
        except ITEM_ERRORS as error:
            raise InvalidInput(f"{field}[{place}]: {error}") from error


def decoded(item: bytes, expected: ImageInput | AudioInput, limits: Limits) -> NDArray[Any]:
    """One file as a row. Raises one of ITEM_ERRORS."""
    if isinstance(expected, AudioInput):
        return decode_audio(item, expected.sample_rate_hz, expected.num_samples)
    return decode_image(item, expected, limits.max_item_pixels)


def row_bytes(spec: TensorSpec) -> int:
    """Bytes of one row."""
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


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


def finite_rows(rows: NDArray[Any], field: str) -> NDArray[Any]:
    """The rows themselves. Raises InvalidInput, which names the row, if a number is NaN or infinite."""
    if not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
        raise InvalidInput.at(f"{field}[{row}]", got="NaN or infinity", expected="finite numbers")
    return rows
