"""What the file's input takes, and how the rows of a bundle become it: in numpy, and as nodes of a graph.

Shape legend: B rows, H height, W width, C channels, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.sources.onnx_file.parts import Parts
from export.sources.source import Layout
from latentserve.inputs import INPUT, AudioInput, ImageInput

LARGEST_INTEGER = {"image": 255.0, "audio": 32768.0}
"""What 1.0 is of the integers of a row."""


@dataclass(frozen=True)
class Entry:
    """The only input of a file.

    Attributes:
        name: of it.
        input: the rows that it is fed with.
        fixed_rows: the number of rows that the file says; None: any.
        layout: of images.
        channel: whether waveforms have an axis of one channel.
        uint8: whether it takes the bytes as they are.
        integers: whether floats are on the scale of the integers.
        bgr: whether blue comes first.
        mean: subtracted, of one or C numbers, in the order and on the scale of the network.
        std: what the difference is divided by.
    """

    name: str
    input: ImageInput | AudioInput
    fixed_rows: int | None = None
    layout: Layout = "NCHW"
    channel: bool = False
    uint8: bool = False
    integers: bool = False
    bgr: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def prepared(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """What the file takes, of float images [B, C, H, W], 0 to 1, or waveforms [B, T], -1 to 1."""
        last: NDArray[Any] = np.moveaxis(x, 1, -1) if self.is_image else x
        if self.uint8 or self.integers:
            last = np.rint(last * np.float32(LARGEST_INTEGER[self.input.modality]))
        if self.bgr:
            last = last[..., ::-1]
        if not self.uint8:
            last = (last - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.is_image and self.layout == "NCHW":
            last = np.moveaxis(last, -1, 1)
        if self.channel:
            last = last[:, None]
        return np.ascontiguousarray(last, np.uint8 if self.uint8 else np.float32)

    def write(self, parts: Parts) -> None:
        """Adds nodes that turn `input` into the file's own. Div and Sub, which export.quantise leaves in floats."""
        value = INPUT
        if self.bgr:
            value = parts.add("Gather", value, parts.constant(np.array([2, 1, 0], np.int64)), axis=3)
        if not self.uint8:
            value = parts.add("Cast", value, to=TensorProto.FLOAT)
            if not self.integers:
                value = parts.add("Div", value, parts.constant(np.float32(LARGEST_INTEGER[self.input.modality])))
            if any(self.mean):
                value = parts.add("Sub", value, parts.constant(np.array(self.mean, np.float32)))
            if set(self.std) != {1.0}:
                value = parts.add("Div", value, parts.constant(np.array(self.std, np.float32)))
        if self.is_image and self.layout == "NCHW":
            value = parts.add("Transpose", value, perm=[0, 3, 1, 2])
        if self.channel:
            value = parts.add("Reshape", value, parts.constant(np.array([0, 1, -1], np.int64)))
        parts.add("Identity", value, output=self.name)

    @property
    def is_image(self) -> bool:
        """Whether rows are images, not waveforms."""
        return isinstance(self.input, ImageInput)

    @property
    def axes(self) -> tuple[int, ...]:
        """The file's axes after the rows."""
        if isinstance(self.input, AudioInput):
            return (1, self.input.num_samples) if self.channel else (self.input.num_samples,)
        height, width, channels = self.input.spec.shape
        return (channels, height, width) if self.layout == "NCHW" else (height, width, channels)
