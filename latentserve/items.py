"""Splits the caller's items into parts that fit a request and know which items they hold.

Rows come as one array, or one by one in anything that can be iterated over: files (paths or bytes), arrays and tensors
of one row, PIL images. Neither torch nor PIL is imported: their objects are recognized by their methods.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

Items = NDArray[Any] | Iterable["bytes | str | PathLike[str] | NDArray[Any] | Any"]
"""Rows: an array or a tensor, uint8 [n, height, width, channels] or int16 [n, samples]; or any iterable of files (JPEG,
PNG, WebP, BMP, TIFF; WAV, FLAC; as paths or bytes), PIL images, and arrays or tensors of one row each. Other numbers
are cast if the cast keeps each number."""

ROWS_PER_REQUEST = 64
BYTES_PER_REQUEST = 2**21
"""Larger inputs are split at these sizes: big enough to fill a batch, small enough to keep latency and memory flat."""

ONE = "a file (path or bytes), a PIL image, or an array or tensor of one row"
_SERVERS_WORDS = re.compile(r"(input\.encoded\.items|input\.tensor|latents)(?:\[(\d+)\])?")
_AS_PNG = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_AS_RGB = {"CMYK", "YCbCr", "HSV", "LAB", "RGBX"}
"""Modes of PIL images that a PNG holds, and those that become RGB first."""


@dataclass(frozen=True)
class Part:
    """Some of a caller's items, ready to be sent.

    Attributes:
        field: the caller's name of all items.
        first: index of the first item of this part.
        num: number of items.
        message: a `pb.Input`, or a `pb.Tensor` of latents.
        whole: shape of the array that they are part of; None if each is an item of its own.
        alone: whether the field is a single item without an index.
    """

    field: str = ""
    first: int = 0
    num: int = 0
    message: Any = None
    whole: tuple[int, ...] | None = None
    alone: bool = False

    def told(self, message: str) -> str:
        """Translates a server's message about a field of its request to the caller's items."""
        found = _SERVERS_WORDS.match(message)
        if found is None:
            return message
        text = message[found.end() :]
        if found[2] is not None:
            return f"{self.place(int(found[2]))}{text}"
        sent = re.escape(f"[{self.num}, ")
        if self.whole is not None:
            return self.field + re.sub(sent, f"[{self.whole[0]}, ", text, count=1)
        if re.search(sent, text):  # of its shape: each of these has the same, and no axis of rows
            return self.place(0) + re.sub(sent, "[", text, count=1)
        several = f"[{self.first}:{self.first + self.num}]"
        return f"{self.field}{'' if self.alone else several}{text}"

    def place(self, number: int) -> str:
        """The caller's name of one item."""
        return self.field if self.alone else f"{self.field}[{self.first + number}]"


@dataclass(frozen=True)
class Cut:
    """All parts of a caller's items, in order, made on demand.

    Attributes:
        parts: can be iterated once.
        total: how many items there are; None if that is known only at the end.
        reads: taking a part may take a while: it reads files, or asks the caller's own iterable.
    """

    parts: Iterator[Part]
    total: int | None = None
    reads: bool = False


def cut(items: Items, field: str = "items") -> Cut:
    """Splits a caller's items.

    Raises:
        InvalidInput: they are no items. An error in one item is raised when its part is made.
    """
    array = as_array(items, field)
    if array is not None and array.dtype.kind not in "OU":
        return cut_rows(_as_rows(array, field), field)
    given: Any = items if array is None else array.tolist()
    single = isinstance(given, (bytes, bytearray, memoryview, str, PathLike)) or _is_image(given)
    if single or isinstance(given, (Mapping, Set)) or not isinstance(given, Iterable):
        raise InvalidInput.at(field, got=f"one {type(given).__name__}", expected="a list of files or an array")
    total = len(given) if isinstance(given, Sized) else None
    if total == 0:
        raise InvalidInput.at(field, got="no rows", expected="at least one")
    return Cut(_one_by_one(given, field), total, reads=True)


def cut_one(item: Any, field: str) -> Cut:
    """Splits one item of a stream: a file, one row (1 or 3 axes), or an array of rows (2 or 4)."""
    array = as_array(item, field)
    if array is not None and array.ndim % 2 == 0:
        return cut(array, field)
    return Cut(_one_by_one([item], field, alone=True), 1)


def cut_rows(rows: NDArray[Any], field: str, latents: bool = False) -> Cut:
    """Splits an array of rows. Raises InvalidInput if it has none."""
    if rows.ndim < 2 or len(rows) == 0:
        what = "no rows" if rows.ndim and not len(rows) else f"shape {list(rows.shape)}"
        raise InvalidInput.at(field, got=what, expected="[n, ...] with n of 1 or more")
    row_bytes = max(rows.nbytes // len(rows), 1)
    step = max(1, min(ROWS_PER_REQUEST, BYTES_PER_REQUEST // row_bytes))

    def parts() -> Iterator[Part]:
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            tensor = to_tensor(some)
            yield Part(field, first, len(some), tensor if latents else pb.Input(tensor=tensor), rows.shape)

    return Cut(parts(), len(rows))


def cut_latents(latents: Any, field: str = "latents") -> Cut:
    """Splits latents, rounded to float32. Raises InvalidInput if they are no array of numbers, or out of its range."""
    array = as_array(latents, field)
    array = np.asarray(latents) if array is None and isinstance(latents, (list, tuple)) else array
    if array is None or array.dtype.kind not in "fiu":
        got = type(latents).__name__ if array is None else f"an array of {array.dtype}"
        raise InvalidInput.at(field, got=got, expected="an array of float32")
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if (np.isinf(rounded) & np.isfinite(array)).any():
        raise InvalidInput.at(field, got=f"{array.dtype} beyond what float32 holds", expected="float32")
    return cut_rows(rounded, field, latents=True)


def as_array(value: Any, place: str) -> NDArray[Any] | None:
    """A value as an array if it is an array or a tensor; else None.

    Raises:
        InvalidInput: a tensor that numpy has no type for.
    """
    if isinstance(value, np.ndarray):
        return value
    if _is_image(value):
        return None
    try:
        if callable(getattr(value, "detach", None)):  # torch: it may lie on a GPU, and may want a gradient
            value = value.detach().cpu()
        return np.asarray(value) if hasattr(value, "__array__") else None
    except Exception as error:  # of a library that is not ours
        got = f"{type(value).__name__} of {getattr(value, 'dtype', 'unknown type')}"
        raise InvalidInput.at(place, got=got, expected=f"one that numpy takes ({error})") from error


def _one_by_one(items: Iterable[Any], field: str, alone: bool = False) -> Iterator[Part]:
    """Parts of consecutive items of one kind: files with files, rows with rows of their shape."""
    some: list[Any] = []
    kind: Any = None
    number = -1
    for number, item in enumerate(items):
        one = _file_or_row(item, field if alone else f"{field}[{number}]")
        its_kind = None if isinstance(one, bytes) else (one.dtype, one.shape)
        if some and (
            its_kind != kind or len(some) == ROWS_PER_REQUEST or _size(some) + _size([one]) > BYTES_PER_REQUEST
        ):
            yield _part(some, field, number - len(some), alone)
            some = []
        some.append(one)
        kind = its_kind
    if not some:
        raise InvalidInput.at(field, got="no rows", expected="at least one")
    yield _part(some, field, number + 1 - len(some), alone)


def _part(some: list[Any], field: str, first: int, alone: bool) -> Part:
    if isinstance(some[0], bytes):
        message = pb.Input(encoded=pb.EncodedItems(items=some))
    else:
        message = pb.Input(tensor=to_tensor(np.stack(some)))
    return Part(field, first, len(some), message, alone=alone)


def _size(some: list[Any]) -> int:
    return sum(len(one) if isinstance(one, bytes) else one.nbytes for one in some)


def _file_or_row(item: Any, place: str) -> bytes | NDArray[Any]:
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, (str, PathLike)):
        try:
            return Path(item).read_bytes()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput.at(place, got=repr(str(item)), expected=f"a file that can be read ({why})") from error
    if _is_image(item):
        return _png(item, place)
    array = as_array(item, place)
    if array is None:
        raise InvalidInput.at(place, got=type(item).__name__, expected=ONE)
    if array.ndim not in (1, 3):
        shape = list(array.shape)
        raise InvalidInput.at(place, got=f"shape {shape}", expected="one row: [height, width, channels] or [samples]")
    row: NDArray[Any] = _as_rows(array[None], place, first=None)[0]
    return row


def _as_rows(array: NDArray[Any], place: str, first: int | None = 0) -> NDArray[Any]:
    """Images as uint8, sounds as int16, if the cast keeps every number.

    Args:
        array: [n, ...]
        place: of the array, or of the one row that it holds.
        first: None if `place` already names the one row.
    """
    if array.dtype in (np.uint8, np.int16) or array.size == 0:
        return array
    wanted: np.dtype[np.integer[Any]] = np.dtype(np.int16 if array.ndim == 2 else np.uint8)
    low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
    expected = f"whole numbers {low} to {high} ({wanted})"
    if array.dtype.kind not in "fiu":
        raise InvalidInput.at(place, got=f"an array of {array.dtype}", expected=expected)
    fits = (array >= low) & (array <= high) & (array == np.rint(array))
    if not fits.all():
        where = np.unravel_index(int(np.argmin(fits)), array.shape)
        at = place if first is None else f"{place}[{where[0]}]"
        small = wanted == np.uint8 and array.min() >= 0 and array.max() <= 1
        meant = ": multiply by 255 and round" if small else ""
        raise InvalidInput.at(at, got=f"{array.dtype} {array[where]:g}", expected=expected + meant)
    if array.dtype.kind == "f" and wanted == np.uint8 and array.max() == 1:
        raise InvalidInput.at(place, got=f"{array.dtype} 0 to 1", expected=f"{expected}: multiply by 255")
    return array.astype(wanted)


def _is_image(value: Any) -> bool:
    """A PIL image: it can be saved, and has a mode."""
    return all(hasattr(value, name) for name in ("save", "mode", "getexif"))


def _png(image: Any, place: str) -> bytes:
    """The image as a file, so that it is decoded like any other file; its orientation is kept."""
    buffer = io.BytesIO()
    try:
        exif = {"exif": exif} if (exif := image.getexif()) else {}
        if image.mode not in _AS_PNG | _AS_RGB:
            raise ValueError(f"not {image.mode}")
        image = image.convert("RGB") if image.mode in _AS_RGB else image
        image.save(buffer, "PNG", compress_level=1, **exif)
    except Exception as error:  # Pillow's own, of an image that is cut or closed
        modes = ", ".join(sorted(_AS_PNG | _AS_RGB))
        raise InvalidInput.at(
            place, got=f"an image of mode {image.mode}", expected=f"one of {modes} ({error})"
        ) from error
    return buffer.getvalue()
