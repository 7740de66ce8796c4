"""The form of one input row, by modality: part of a bundle's manifest.

A row is what the encoder's graph reads. `latentserve.images` and `latentserve.audio` turn files of
clients into rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

INPUT = "input"
"""Name of the tensor that the client sends."""


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
    """

    how: Literal["crop", "fit", "stretch"] = "crop"
    shorter_side: int | None = None
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"


@dataclass(frozen=True)
class ImageInput:
    """One row of input: a uint8 image [height, width, channels], 0 (black) to 255 (white)."""

    height: int
    width: int
    channels: int
    modality: Literal["image"] = "image"
    resize: Resize = Resize()

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3):
            got = f"{self.height} x {self.width} x {self.channels}"
            raise ValueError(f"input: got {got}, expected a height and width of 1 or more and 1 or 3 channels")

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
