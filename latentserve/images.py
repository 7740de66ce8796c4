"""How an encoded image becomes the pixels a model was trained on.

Training reads image folders through this file and the service decodes requests through it, so
that a photo gives the same pixels on both sides: upright, on black where it is transparent, centre-cropped
to the model's aspect ratio, resized with an antialiasing filter. Needs Pillow (extras `serve` and `train`).
"""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG")
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
"""What sets a photo upright, by its EXIF orientation."""


class ImageError(ValueError):
    """The bytes are not an image we take. The message says what was got and expected."""


def decode_image(data: bytes, height: int, width: int, channels: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes one JPEG or PNG to uint8 [height, width, channels].

    The size is read from the header and held against `max_pixels` before a pixel is decoded.

    Args:
        data: the bytes of the file.
        height: of the result.
        width: of the result.
        channels: of the result: 1 (grey) or 3 (RGB).
        max_pixels: largest width x height that is decoded.

    Raises:
        ImageError: empty, another format, too many pixels, truncated or corrupt.
    """
    if not data:
        raise ImageError("got 0 bytes, expected a JPEG or PNG file")
    image = _open(data)
    got = image.width * image.height
    if got > max_pixels:
        raise ImageError(f"got {image.width} x {image.height} = {got} pixels, expected at most {max_pixels}")
    try:
        image.load()  # here: a broken pixel must not be met, and forgiven, while EXIF is looked for
        return _fit(_upright(image), height, width, channels)
    except Exception as error:  # whatever a damaged file leads Pillow into, one file must not end a long reading
        raise ImageError(f"got a corrupt {image.format} of {len(data)} bytes: {error!r}") from error


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own limit of pixels; ours is checked by the caller.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"got {len(data)} bytes beginning {data[:8]!r}, expected a JPEG or PNG file") from None
    except Exception as error:
        raise ImageError(f"got an unreadable header: {error!r}") from error


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF says it is held. EXIF that cannot be read says nothing, as in browsers: the pixels may be whole."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _fit(image: Image.Image, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Mode, centre crop and size."""
    if image.mode == "I;16":  # 16-bit grey PNG: `convert("L")` would clip it to white
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or (image.mode == "P" and "transparency" in image.info):
        # Colours times opacity: on black. The one colour that a PNG without alpha may call transparent is left alone.
        image = Image.merge("RGB", image.convert("RGBA").convert("RGBa").split()[:3])
    pixels: NDArray[Any] = np.asarray(_crop_and_resize(image.convert(MODES[channels]), height, width))
    return pixels.reshape(height, width, channels)


def fit_image(image_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Centre-crops and resizes an image that is already an array: uint8 [height, width, channels]."""
    channels = image_HWC.shape[-1]
    image = Image.fromarray(image_HWC[..., 0] if channels == 1 else image_HWC)
    pixels: NDArray[Any] = np.asarray(_crop_and_resize(image, height, width))
    return pixels.reshape(height, width, channels)


def _crop_and_resize(image: Image.Image, height: int, width: int) -> Image.Image:
    if (image.width, image.height) == (width, height):
        return image
    box = center_crop(image.width, image.height, height, width)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def center_crop(got_width: int, got_height: int, height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box (left, upper, right, lower) of aspect ratio width / height."""
    scale = min(got_width / width, got_height / height)
    left = (got_width - width * scale) / 2
    upper = (got_height - height * scale) / 2
    return left, upper, left + width * scale, upper + height * scale
