"""Other decoders of images and sounds, whatever is installed of them: what ours is held against.

Each turns a file into float64: an image into RGB on black, [H, W, 3] of 0 to 255, a sound into one channel [T] of
16-bit samples. What it does not read it fails at in its own way.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.image_files import PNG_SIGNATURE

Oracle = Callable[[bytes], NDArray[np.float64]]


def _on_black(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Float64 [H, W, 3], 0 to 255, of grey or RGB with or without opacity, in eight or 16 bits."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"got {pixels.dtype}, expected what states its range")
    levels = pixels.reshape(*pixels.shape[:2], -1) * (255 / np.iinfo(pixels.dtype).max)
    num_channels = levels.shape[-1]
    colours = levels[..., :-1] * levels[..., -1:] / 255 if num_channels in (2, 4) else levels
    if num_channels > 4:
        raise ValueError(f"got {num_channels} channels, expected 1 to 4")
    return np.repeat(colours, 3, axis=-1) if num_channels < 3 else colours


def _opencv(data: bytes) -> NDArray[np.float64]:
    import cv2

    raw = np.frombuffer(data, np.uint8)
    pixels: Any = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    if pixels.shape[2:] in ((), (3,)) and pixels.dtype == np.uint8:
        turned: Any = cv2.imdecode(raw, cv2.IMREAD_COLOR)  # by its EXIF
        return _on_black(turned[..., ::-1])
    return _on_black(pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]])


def _torchvision(data: bytes) -> NDArray[np.float64]:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    is_png = data.startswith(PNG_SIGNATURE)
    has_opacity = (is_png and (data[25] >= 4 or b"tRNS" in data)) or data[8:12] == b"WEBP"  # 25: the colour type
    mode = ImageReadMode.RGB_ALPHA if has_opacity else ImageReadMode.RGB  # for others it returns wrong colours
    pixels_CHW = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode, apply_exif_orientation=True)
    return _on_black(pixels_CHW.permute(1, 2, 0).numpy())


def _pypng(data: bytes) -> NDArray[np.float64]:
    import png

    width, height, rows, _ = png.Reader(bytes=data).asRGBA8()
    return _on_black(np.array([list(row) for row in rows], np.uint8).reshape(height, width, 4))


def _tifffile(data: bytes) -> NDArray[np.float64]:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        if page.photometric not in (1, 2) or page.tags.get("Orientation", None) not in (None, 1):
            raise ValueError("tifffile returns samples as they lie in the file")
        return _on_black(page.asarray())


def _libsndfile(data: bytes) -> NDArray[np.float64]:
    import soundfile

    samples_TC, _ = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
    clipped: NDArray[np.float64] = np.clip(samples_TC.mean(axis=1) * 32768, -32768, 32767)
    return clipped


def _scipy(data: bytes) -> NDArray[np.float64]:
    from scipy.io import wavfile

    _, samples = wavfile.read(io.BytesIO(data))
    if samples.dtype.kind == "u":
        samples = (samples.astype(np.int16) - 128) << 8
    scaled = samples.astype(np.float64) * (
        32768 if samples.dtype.kind == "f" else 2 ** (16 - 8 * samples.dtype.itemsize)
    )
    clipped: NDArray[np.float64] = np.clip(scaled.reshape(len(scaled), -1).mean(axis=1), -32768, 32767)
    return clipped


IMAGE_ORACLES: dict[str, tuple[str, Oracle]] = {
    "opencv": ("cv2", _opencv),
    "torchvision": ("torchvision", _torchvision),
    "pypng": ("png", _pypng),
    "tifffile": ("tifffile", _tifffile),
}
SOUND_ORACLES: dict[str, tuple[str, Oracle]] = {
    "libsndfile, whole": ("soundfile", _libsndfile),
    "scipy": ("scipy", _scipy),
}
"""By name: the module that must be there, and the decoder."""
