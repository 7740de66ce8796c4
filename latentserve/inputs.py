"""The form of one input row, by modality: part of a bundle's manifest.

A row is what the encoder's graph reads. `latentserve.images` and `latentserve.audio` turn files of
clients into rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

INPUT = "input"
"""Name of the tensor that the client sends."""
PATCHES = "patches"
"""Name of the tensor with an embedding of each place, float32 [B, h, w, D]."""
ANOMALY_MAP = "anomaly_map"
"""Name of the tensor with a score of each place, float32 [B, h, w]."""
CODES = "codes"
"""Name of the tensor with the index of a codebook's vector at each place, int16 [B, h, w]."""
ON_REQUEST = (PATCHES, ANOMALY_MAP)
"""Outputs that are only computed if they are asked for: they are large."""
How = Literal["crop", "fit", "stretch"]
Filter = Literal["bilinear", "bicubic", "lanczos"]
Halves = Literal["even", "down"]
HOWS: tuple[How, ...] = get_args(How)
FILTERS: tuple[Filter, ...] = get_args(Filter)
HALVES: tuple[Halves, ...] = get_args(Halves)


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor, without the row axis: dtype is numpy's name, shape has no unknown axis."""

    name: str
    dtype: Literal["uint8", "int16", "float32"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Resize:
    """How an image of any size becomes one of the model's.

    Attributes:
        how: `crop`: the largest centred box of the model's aspect ratio; what lies outside is lost. `fit`: the whole
            image, centred on black. `stretch`: the whole image, height and width each by its own factor.
        shorter_side: of `crop`: the whole image is resized to it first, and a box of the model's size is cut out of its
            centre, both rounded as torchvision's Resize and CenterCrop round.
        filter: all of them are antialiased.
        scaled: whether JPEGs of a million pixels and more are decoded at a half, a quarter or an eighth of their size
            where that divides both sides and leaves twice the result's: much faster, and the same but for some levels.
        halves: of `crop` with a shorter side: where a box goes that would begin in the middle of a pixel: to the even
            one, as torchvision has it, or down, as transformers.
    """

    how: How = "crop"
    shorter_side: int | None = None
    filter: Filter = "bilinear"
    scaled: bool = False
    halves: Halves = "even"

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise ValueError(f"resize: got {self.how!r}, expected one of {', '.join(HOWS)}")
        if self.filter not in FILTERS:
            raise ValueError(f"filter: got {self.filter!r}, expected one of {', '.join(FILTERS)}")
        if self.shorter_side is not None and self.how != "crop":
            raise ValueError(f"shorter_side: got {self.shorter_side} with {self.how}, expected none, or crop")
        if self.halves not in HALVES:
            raise ValueError(f"halves: got {self.halves!r}, expected one of {', '.join(HALVES)}")


@dataclass(frozen=True)
class ImageInput:
    """One row of input: a uint8 image [height, width, channels], 0 (black) to 255 (white).

    Attributes:
        height: of the model's images.
        width: of them.
        channels: 1 (grey) or 3 (RGB).
        modality: tells it from sound.
        resize: how files of other sizes become such an image.
    """

    height: int
    width: int
    channels: int
    modality: Literal["image"] = "image"
    resize: Resize = Resize()

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3):
            got = f"{self.height} x {self.width} x {self.channels}"
            raise ValueError(f"input: got {got}, expected a height and width of 1 or more and 1 or 3 channels")
        side, least = self.resize.shorter_side, min(self.height, self.width)
        if side is not None and side < least:
            size = f"{self.height} x {self.width}"
            raise ValueError(f"shorter_side: got {side}, expected {least} or more for images of {size}")

    @property
    def in_words(self) -> str:
        """How files become rows, for readers."""
        size, how = f"{self.height} x {self.width} pixels (height x width)", self.resize.how
        ending = f"antialiased, {self.resize.filter}"
        if how == "stretch":
            return f"the whole image is stretched to {size}, {ending}"
        if how == "fit":
            return f"the whole image is fitted into {size} on black, {ending}"
        if self.resize.shorter_side is None:
            return f"the largest centred box of this shape is cut out and resized to {size}, {ending}"
        side = self.resize.shorter_side
        return f"the shorter side is resized to {side} pixels, {ending}, and the centre of {size} is cut out"

    @property
    def spec(self) -> TensorSpec:
        """The tensor that the client sends."""
        return TensorSpec(INPUT, "uint8", (self.height, self.width, self.channels))


@dataclass(frozen=True)
class AudioInput:
    """One row of input: int16 [num_samples], one channel; shorter clips are padded with zeros at their end."""

    sample_rate_hz: int
    num_samples: int
    modality: Literal["audio"] = "audio"

    def __post_init__(self) -> None:
        if not 1 <= self.sample_rate_hz < 2**31 or self.num_samples < 1:  # int32 in the proto
            got = f"{self.num_samples} samples at {self.sample_rate_hz} Hz"
            raise ValueError(f"input: got {got}, expected 1 or more of each, of Hz below 2**31")

    @property
    def spec(self) -> TensorSpec:
        """The tensor that the client sends."""
        return TensorSpec(INPUT, "int16", (self.num_samples,))
