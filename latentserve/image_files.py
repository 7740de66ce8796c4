"""Checks of an image file in addition to Pillow's, which accept too much and too little.

PNG: the chunks that make pixels must be there with valid checksums; the rest may be broken.
Source: W3C, Portable Network Graphics (Third Edition), https://www.w3.org/TR/png-3/.

JPEG: libjpeg goes on after damage, fills in grey, and warns; Pillow drops the warnings. `simplejpeg` reports them, and
of grey and of colours its pixels are Pillow's to the bit. ADR 15 says what this cannot detect.
"""

from __future__ import annotations

import importlib
import logging
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"tRNS"}
"""Chunks that determine the pixels."""
HINTS = {b"sBIT", b"eXIf"}
"""Chunks that are read, and left out if they are broken."""
COLOURS = {0: 1, 2: 3, 3: 1, 4: 1, 6: 3}
"""Samples of colour of a pixel, by the header's colour type."""
GREY_AND_ALPHA, RGBA = 4, 6

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
STANDALONE = (0x01, *range(0xD0, 0xD9))
JFIF, ADOBE = 0xE0, 0xEE
NOT_PIXELS = {*range(0xE0, 0xF0), 0xFE} - {JFIF, ADOBE}
"""Segments of applications and comments; but JFIF and Adobe say which colours the components are."""


class ImageError(ValueError):
    """The bytes are not an image that is supported. The message says what was got and expected."""


@dataclass(frozen=True)
class Png:
    """Properties of a PNG beside its pixels.

    Attributes:
        data: a PNG of the same pixels, without the chunks that nobody needs; of 16-bit grey with opacity the high and
            low bytes as RGBA of 8 bits, because Pillow would drop the low ones.
        bits: of a sample.
        colour_type: of the header.
        transparent: the one colour that is transparent, in samples of `bits`, or None.
        significant_bits: of the samples before they were stretched to `bits`, the fewest of any colour, or None.
    """

    data: bytes
    bits: int
    colour_type: int
    transparent: tuple[int, ...] | None
    significant_bits: int | None


def read_png(data: bytes) -> Png:
    """Looks through a PNG that begins with PNG_SIGNATURE.

    Raises:
        ImageError: a chunk that makes pixels is truncated, has a wrong checksum or is not known.
    """
    kept, at = dict[bytes, bytes](), len(PNG_SIGNATURE)
    pixels = list[bytes]()
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        body, end = data[at + 8 : at + 8 + size], at + 12 + size
        if name == b"IEND":
            break
        is_needed = not name[0] & 0x20  # an upper-case letter: critical
        if is_needed and name not in PIXELS:
            raise ImageError(f"got a PNG with chunk {name!r}, expected none that changes how pixels are read")
        if name in PIXELS | HINTS:
            is_whole = data[end - 4 : end] == zlib.crc32(body, zlib.crc32(name)).to_bytes(4)
            if not is_whole and name in PIXELS:
                raise ImageError(
                    f"got a corrupt PNG of {len(data)} bytes: {name.decode()} is cut off or has a wrong checksum"
                )
            if name == b"IDAT":
                pixels.append(body)
            elif is_whole:
                kept.setdefault(name, body)
        at = end
    if b"IHDR" not in kept or len(kept[b"IHDR"]) != 13:
        raise ImageError(f"got a corrupt PNG of {len(data)} bytes: it has no header")
    if not pixels:
        raise ImageError(f"got a corrupt PNG of {len(data)} bytes: it has no pixels")
    return _png(kept, pixels)


def _png(kept: dict[bytes, bytes], pixels: list[bytes]) -> Png:
    header = kept.pop(b"IHDR")
    width, height, bits, colour_type, *rest = struct.unpack(">IIBBBBB", header)
    num_colours = COLOURS.get(colour_type, 1)
    transparent = None
    if colour_type in (0, 2) and len(key := kept.pop(b"tRNS", b"")) >= 2 * num_colours:
        mask = (1 << bits) - 1  # "the least significant bits are used", section 11.3.1.1
        transparent = tuple(value & mask for value in struct.unpack_from(f">{num_colours}H", key))
    significant = kept.pop(b"sBIT", b"")[:num_colours]
    if (bits, colour_type) == (16, GREY_AND_ALPHA):
        header = struct.pack(">IIBBBBB", width, height, 8, RGBA, *rest)
    order = [(b"IHDR", header), *kept.items(), *((b"IDAT", body) for body in pixels), (b"IEND", b"")]
    file = b"".join(
        struct.pack(">I", len(body)) + name + body + zlib.crc32(body, zlib.crc32(name)).to_bytes(4)
        for name, body in order
    )
    return Png(PNG_SIGNATURE + file, bits, colour_type, transparent, min(significant) if significant else None)


@cache
def _simplejpeg() -> Any:
    """The library, or None with one warning: it has no wheel for every machine, and what it detects is rare."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        log.warning("simplejpeg is not installed: damage in the middle of a JPEG is not noticed")
        return None


JPEG_COLOURS = {"L": "GRAY", "RGB": "RGB"}
"""What `simplejpeg` calls Pillow's modes."""


def jpeg_pixels(data: bytes, mode: str, factor: int, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG, uint8 [height, width, 1 or 3], which no warning is about.

    Args:
        data: of the file.
        mode: Pillow's.
        factor: 1, 2, 4 or 8: of width and height, the part that it is decoded at.
        size: width and height of the result.

    Returns:
        None where `simplejpeg` is not installed, or for another mode: then Pillow is to decode it.

    Raises:
        ImageError: libjpeg warns of its pixels.
    """
    library = _simplejpeg()
    if library is None or mode not in JPEG_COLOURS:
        return None
    part = {} if factor == 1 else {"min_width": size[0], "min_height": size[1], "min_factor": factor}
    try:
        pixels: NDArray[np.uint8] = library.decode_jpeg(_without_comments(data), JPEG_COLOURS[mode], **part)
    except ValueError as error:
        raise _corrupt_jpeg(data, error) from error
    return pixels


def check_jpeg(data: bytes) -> None:
    """Checks a JPEG for warnings by decoding it at a small size, which reads every bit of it.

    Without `simplejpeg` only Pillow's errors are noticed.

    Raises:
        ImageError: libjpeg warns of its pixels.
    """
    library = _simplejpeg()
    if library is None:
        return
    bare = _without_comments(data)
    try:
        _, _, colours, _ = library.decode_jpeg_header(bare)
        space = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
        library.decode_jpeg(bare, space, fastdct=True, fastupsample=True, min_factor=8)
    except ValueError as error:
        raise _corrupt_jpeg(data, error) from error


def _corrupt_jpeg(data: bytes, error: ValueError) -> ImageError:
    return ImageError(f"got a corrupt JPEG of {len(data)} bytes: {error}")


def _without_comments(data: bytes) -> bytes:
    """Without the segments before the first scan that make no pixels, and what lies between segments.

    libjpeg warns of these, too, but they do no harm.
    """
    kept, at = [data[:2]], 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0, 0xFF) or marker in STANDALONE:
            at += 1
            continue
        if marker in (SOS, EOI):
            return b"".join((*kept, data[at:]))
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker not in NOT_PIXELS:
            kept.append(data[at:end])
        at = end
    return data
