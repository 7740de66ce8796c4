"""How an encoded image becomes the pixels a model was trained on.

Training and export read images through this file and the service decodes requests through it, so
that a photo becomes the same pixels on all sides: upright, on black where it is transparent, in the size of the model's
by the rule of its input (`latentserve.resizing`). Of several frames or pages the first is taken.

Pillow decodes, but most JPEGs; `image_files` and `depth` check what it accepts too easily. Needs Pillow and simplejpeg
(extras `serve` and `train`).
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from latentserve.depth import png_samples, tiff_samples
from latentserve.image_files import PNG_SIGNATURE, ImageError, Png, check_jpeg, jpeg_pixels, read_png
from latentserve.inputs import ImageInput
from latentserve.resizing import resized, scaled_down

__all__ = ["FORMATS", "SUFFIXES", "ImageError", "decode_image", "fit_image", "image_pixels", "upright_size"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
EXPECTED = "expected a JPEG or PNG file, or a WebP, BMP or TIFF that Pillow reads"
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
PLAIN_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transpose that sets a photo upright, by its EXIF orientation."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations by which height and width change places."""
JPEGS = ("JPEG", "MPO")
EXIF_FIRST = (*JPEGS, "WEBP")
"""Formats whose EXIF can be read before a pixel is decoded."""


def decode_image(data: bytes, given: ImageInput, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes one JPEG, PNG, WebP, BMP or TIFF to uint8 [height, width, channels].

    The size is read from the header and held against `max_pixels` before a pixel is decoded.

    Args:
        data: the bytes of the file.
        given: height, width and channels (1: grey, 3: RGB) of the result, and the rule by which it is resized.
        max_pixels: largest width x height that is decoded.

    Raises:
        ImageError: empty, another format, too many pixels, truncated or corrupt, or of more bits than eight whose range
            it does not state.
    """
    image, file, png = _with_header(data)
    try:
        _check_size(image, max_pixels)
        part = 1
        if given.resize.scaled and image.format in JPEGS:
            part = scaled_down(image, given, turned=_orientation(image) in SIDEWAYS)
        pixels = _on_black(_upright(_pixels(image, file, png, part)))
        return _array(resized(pixels.convert(MODES[given.channels]), given), given)
    except ImageError:
        raise
    except Exception as error:  # any error of Pillow: one damaged file must not end a long run
        raise ImageError(f"got a corrupt {image.format} of {len(data)} bytes: {error!r}") from error


def image_pixels(data: bytes, max_pixels: int) -> int:
    """How many pixels decoding a file would touch, by its header: no pixel is decoded.

    Raises:
        ImageError: as `decode_image`, as far as the header tells.
    """
    image, _, _ = _with_header(data)
    try:
        return _check_size(image, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # tags of a TIFF that are no numbers
        raise ImageError(f"got an unreadable header: {error!r}") from error


def upright_size(file: bytes | Path) -> tuple[int, int]:
    """Height and width of an image as it is seen, by its header: no pixel is decoded, and of a file little is read.

    Raises:
        ImageError: as `decode_image`, as far as the header tells.
        OSError: the file cannot be read.
    """
    with _open(file) as image:
        turned = image.format in EXIF_FIRST and _orientation(image) in SIDEWAYS
        return (image.width, image.height) if turned else (image.height, image.width)


def _with_header(data: bytes) -> tuple[Image.Image, bytes, Png | None]:
    """The image, of which the header was read; the file that Pillow is to read; what else a PNG says."""
    if not data:
        raise ImageError(f"got 0 bytes, {EXPECTED}")
    png = read_png(data) if data.startswith(PNG_SIGNATURE) else None
    file = data if png is None else png.data
    return _open(file), file, png


def _open(data: bytes | Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own limit of pixels, which the caller checks, and of metadata that it cannot read.
            warnings.simplefilter("ignore")
            image = Image.open(data if isinstance(data, Path) else io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        got = str(data) if isinstance(data, Path) else f"{len(data)} bytes beginning {data[:8]!r}"
        raise ImageError(f"got {got}, {EXPECTED}") from None
    except Exception as error:
        raise ImageError(f"got an unreadable header: {error!r}") from error
    for xmp in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(xmp, None)  # its orientation, which nobody but Pillow obeys
    return image


def _check_size(image: Image.Image, max_pixels: int) -> int:
    """How many pixels decoding it touches."""
    got = image.width * image.height
    if got > max_pixels:
        raise ImageError(f"got {image.width} x {image.height} = {got} pixels, expected at most {max_pixels}")
    if image.format == "TIFF":
        tile: int = image.tag_v2.get(322, 1) * image.tag_v2.get(323, 1)  # type: ignore[attr-defined]
        if tile > max_pixels:  # decoded whole, however small the image
            raise ImageError(f"got tiles of {tile} pixels, expected at most {max_pixels}")
        return max(got, tile)
    return got


def _pixels(image: Image.Image, data: bytes, png: Png | None, part: int) -> Image.Image:
    """The image, decoded, in one of PLAIN_MODES, and still as it lies in the file; a JPEG at a part of its size."""
    decoded: NDArray[Any] | None = None
    if image.format in JPEGS:
        decoded = jpeg_pixels(data, image.mode, part, image.size)
    elif png is not None and png.bits == 16:
        decoded = png_samples(lambda: _open(data), png)
    elif image.format == "TIFF":
        decoded = tiff_samples(lambda: _open(data), image.tag_v2)  # type: ignore[attr-defined]
    if decoded is not None:
        samples = Image.fromarray(decoded[..., 0] if decoded.shape[-1] == 1 else decoded)
        samples.info = image.info
        return samples
    image.load()  # here: a broken pixel must not be met, and forgiven, while EXIF is looked for
    if image.format in JPEGS:
        check_jpeg(data)
    if image.mode not in PLAIN_MODES:
        raise ImageError(f"got pixels of mode {image.mode}, expected grey or colours")
    if png is not None and png.transparent is not None:
        return _without(image, png)
    return image


def _without(image: Image.Image, png: Png) -> Image.Image:
    """A PNG without opacity, its one transparent colour made black."""
    assert png.transparent is not None
    levels = (1 << png.bits) - 1
    colour = [value * 255 // levels for value in png.transparent]  # as Pillow stretches few bits to eight
    pixels = np.array(image.convert("L" if len(colour) == 1 else "RGB"))
    pixels[(pixels.reshape(*pixels.shape[:2], -1) == colour).all(axis=-1)] = 0
    black = Image.fromarray(pixels)
    black.info = image.info
    return black


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF says it is held."""
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """By its EXIF. EXIF that cannot be read says nothing, as in browsers: the pixels may be whole."""
    try:
        said = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return said if isinstance(said, int) else 1


def _on_black(image: Image.Image) -> Image.Image:
    """Colours times opacity."""
    if image.mode == "La":  # multiplied already
        return image.getchannel(0)
    if "A" in image.getbands() or (image.mode == "P" and "transparency" in image.info):
        return Image.merge("RGB", image.convert("RGBA").convert("RGBa").split()[:3])
    return image


def fit_image(image_HWC: NDArray[np.uint8], given: ImageInput) -> NDArray[np.uint8]:
    """As `decode_image` of an image that is an array already: uint8 [height, width, channels], its own channels."""
    image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)
    return _array(resized(image.convert(MODES[given.channels]), given), given)


def _array(image: Image.Image, given: ImageInput) -> NDArray[np.uint8]:
    pixels: NDArray[Any] = np.asarray(image)
    return pixels.reshape(given.height, given.width, given.channels)
