"""Rows as pictures: an image as a small image, a clip of sound as its waveform, to be played where it is short.

Shape legend: H height, W width, C channels, T samples.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluation.page import Html, element, image

LARGEST_SIDE = 160
"""Pixels of a picture on the page; larger images are made smaller."""
COARSE_SIDE = 48
"""Images below it are shown with their pixels, larger ones smoothed."""
LOSSLESS_SIDE = 64
JPEG_QUALITY = 88
NUM_BINS, HALF_HEIGHT = 160, 24
LARGEST_CLIP_BYTES = 100_000
"""A page with twenty clips of this size is mailed without trouble."""


def picture(row: NDArray[Any], alt: str, sample_rate_hz: int | None = None) -> Html:
    """One row as the model takes it, or its reconstruction (0 to 1).

    Args:
        row: uint8 or float [H, W, C], or int16 [T].
        alt: what it is, for who cannot see it.
        sample_rate_hz: of sound.
    """
    return _image(row, alt) if sample_rate_hz is None else _sound(row, alt, sample_rate_hz)


def tiles(pictures: Sequence[Html]) -> Html:
    """Pictures with captions, as many beside each other as there is room for."""
    return element("div", *pictures, class_="tiles")


def tile(shown: Sequence[Html], *caption: str) -> Html:
    """One of them; what is shown stands side by side."""
    pair = shown[0] if len(shown) == 1 else element("div", *shown, class_="pair")
    lines = [part for line in caption if line for part in (Html("<br>"), line)]
    return element("figure", pair, element("figcaption", *lines[1:]))


def strip(shown: Sequence[Html], widest: float = 7.0) -> Html:
    """Pictures in one line, whatever the width."""
    style = f"grid-template-columns: repeat({len(shown)}, minmax(0, 1fr)); max-width: {widest * len(shown):g}rem"
    return element("div", *shown, class_="strip", style=style)


def _image(row_HWC: NDArray[Any], alt: str) -> Html:
    pixels = row_HWC if row_HWC.dtype == np.uint8 else np.rint(np.clip(row_HWC, 0, 1) * 255).astype(np.uint8)
    drawn = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    drawn.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if max(drawn.size) <= LOSSLESS_SIDE else "jpeg"
    drawn.save(buffer, kind, **({} if kind == "png" else {"quality": JPEG_QUALITY}))
    look = "coarse" if max(drawn.size) < COARSE_SIDE else "fine"
    return image(buffer.getvalue(), kind, alt, class_=f"picture {look}")


def _sound(row_T: NDArray[Any], alt: str, sample_rate_hz: int) -> Html:
    drawn = waveform(row_T, alt)
    if row_T.nbytes > LARGEST_CLIP_BYTES:
        return drawn
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(row_T.astype("<i2").tobytes())
    source = "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()
    player = element("audio", controls="", preload="none", src=source, aria_label=alt)
    return element("div", drawn, player)


def waveform(row_T: NDArray[Any], alt: str) -> Html:
    """The range of the samples in each of a few bins, against the loudest sample of the clip."""
    bins = np.array_split(row_T.astype(np.float64), min(NUM_BINS, len(row_T)))
    peak = max(1.0, float(np.abs(row_T.astype(np.float64)).max()))
    tops = [HALF_HEIGHT - HALF_HEIGHT * part.max() / peak - 0.3 for part in bins]
    bottoms = [HALF_HEIGHT - HALF_HEIGHT * part.min() / peak + 0.3 for part in bins]
    there = [f"{x},{y:.1f}" for x, y in enumerate(tops)]
    back = [f"{x},{y:.1f}" for x, y in reversed([*enumerate(bottoms)])]
    path = element("path", d=f"M{' L'.join(there + back)}Z")
    box = f"0 0 {len(bins) - 1} {2 * HALF_HEIGHT}"
    return element("svg", path, class_="wave", viewBox=box, role="img", aria_label=alt, preserveAspectRatio="none")
