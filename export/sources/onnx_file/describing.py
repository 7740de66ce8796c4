"""What the input of a file is: by its shape, and by what the user says where that leaves it open."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

from export.sources.onnx_file.entry import Entry
from export.sources.onnx_file.reading import File
from export.sources.source import Layout, SourceError, SourceOptions
from latentserve.inputs import AudioInput, ImageInput, Resize

CHANNELS = (1, 3)
CHANNEL_AXIS: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}
Axes = list[int | None]
"""Of a tensor; None: any length."""


def entry_of(file: File, options: SourceOptions) -> Entry:
    """Describes the only input of a file.

    Raises:
        SourceError: there are several, of a type or shape that rows cannot be fed to, or the user says what cannot be.
    """
    value = _only_input(file)
    name, tensor = value.name, value.type.tensor_type
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8):
        got = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise SourceError(f"onnx: got an input {name} of {got}, expected float or uint8: export the network in float32")
    axes = axes_of(value)
    uint8 = tensor.elem_type == TensorProto.UINT8
    if axes is None or len(axes) not in (2, 3, 4):
        raise SourceError(
            f"onnx: got an input {name} of shape {in_words(axes)}, expected images [rows, channels, height, width] or"
            " [rows, height, width, channels], or waveforms [rows, samples] or [rows, 1, samples]"
        )
    if len(axes) == 4:
        entry = _images(name, axes, options, uint8)
    elif uint8:
        raise SourceError(f"onnx: got an input {name} of uint8 {in_words(axes)}, expected waveforms in float")
    else:
        entry = _waveforms(name, axes, options)
    return entry


def _only_input(file: File) -> onnx.ValueInfoProto:
    graph = file.model.graph
    held = {one.name for one in graph.initializer} | {one.values.name for one in graph.sparse_initializer}
    inputs = [one for one in graph.input if one.name not in held]
    if len(inputs) != 1:
        listed = ", ".join(f"{one.name} {in_words(axes_of(one))}" for one in inputs) or "none"
        raise SourceError(f"onnx: got {len(inputs)} inputs ({listed}), expected one: the images, or the waveforms")
    if (kind := inputs[0].type.WhichOneof("value")) != "tensor_type":
        got = (kind or "unknown type").removesuffix("_type").replace("_", " ")
        raise SourceError(f"onnx: got an input {inputs[0].name} that is a {got}, expected a tensor")
    return inputs[0]


def axes_of(value: onnx.ValueInfoProto) -> Axes | None:
    """The lengths of axes; None: not even their number is known."""
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return None
    return [one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None for one in tensor.shape.dim]


def in_words(axes: Axes | None) -> str:
    """A shape as people write it."""
    return "?" if axes is None else f"[{', '.join('any' if one is None else str(one) for one in axes)}]"


def _images(name: str, axes: Axes, options: SourceOptions, uint8: bool) -> Entry:
    if options.sample_rate_hz is not None or options.num_samples is not None:
        raise SourceError(f"onnx: got sample_rate_hz or num_samples, expected none: {name} takes images")
    layout = _layout(name, axes, options.layout)
    at = CHANNEL_AXIS[layout]
    channels = axes[at] or 3
    if channels not in CHANNELS:
        raise SourceError(f"layout: got {layout} with {channels} channels in {name} {in_words(axes)}, expected 1 or 3")
    height, width = _size(name, [one for number, one in enumerate(axes) if number not in (0, at)], axes, options)
    try:
        resize = Resize(options.resize or "fit", options.shorter_side, options.filter or "bilinear")
        image = ImageInput(height, width, channels, resize=resize)
    except ValueError as error:
        raise SourceError(str(error)) from None
    if uint8 and (options.mean or options.std or options.scale):
        raise SourceError(f"mean, std, scale: got one of them, expected none: {name} takes uint8 as it is")
    if channels == 1 and options.order is not None:
        raise SourceError(f"order: got {options.order}, expected none: {name} takes grey images")
    mean, std, integers = _numbers(options, channels)
    bgr = options.order == "BGR"
    return Entry(name, image, axes[0], layout, False, uint8, integers, bgr, mean, std)


def _layout(name: str, axes: Axes, said: Layout | None) -> Layout:
    if said is not None:
        return said
    first, last = axes[1] in CHANNELS, axes[3] in CHANNELS
    if first == last:
        raise SourceError(f"layout: {name} is {in_words(axes)}: expected --layout NCHW or NHWC, as it may be either")
    return "NCHW" if first else "NHWC"


def _size(name: str, in_file: Axes, axes: Axes, options: SourceOptions) -> tuple[int, int]:
    said = options.image_size
    if said is None:
        if None in in_file:
            raise SourceError(
                f"image_size: got none, but {name} {in_words(axes)} takes images of any size, and a bundle has one:"
                " expected --image-size HEIGHTxWIDTH, best the size that the network was trained on"
            )
        return in_file[0] or 0, in_file[1] or 0
    if any(one not in (None, size) for one, size in zip(in_file, said, strict=True)):
        raise SourceError(f"image_size: got {said[0]} x {said[1]}, expected that of {name} {in_words(axes)}, or none")
    return said


def _numbers(options: SourceOptions, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean, standard deviation, and whether they are those of integers."""
    mean, std = options.mean or (0.0,), options.std or (1.0,)
    for option, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels) or not all(math.isfinite(one) for one in values):
            raise SourceError(f"{option}: got {list(values)}, expected one number, or one for each of {channels}")
    if min(std) <= 0:
        raise SourceError(f"std: got {list(std)}, expected numbers above 0")
    guessed = max(*mean, *std) > 1
    return mean, std, guessed if options.scale is None else options.scale == "integers"


def _waveforms(name: str, axes: Axes, options: SourceOptions) -> Entry:
    if len(axes) == 3 and axes[1] not in (None, 1):
        raise SourceError(
            f"onnx: got an input {name} of shape {in_words(axes)}, expected waveforms [rows, samples] or"
            " [rows, 1, samples], or images with an axis of rows"
        )
    for option in ("order", "layout", "image_size", "resize", "shorter_side", "filter"):
        if getattr(options, option) is not None:
            raise SourceError(f"{option}: got {getattr(options, option)}, expected none: {name} takes waveforms")
    if options.sample_rate_hz is None:
        raise SourceError(f"sample_rate_hz: {name} {in_words(axes)} takes waveforms, expected --sample-rate-hz")
    num_samples = options.num_samples or axes[-1]
    if num_samples is None:
        raise SourceError(
            f"num_samples: got none, but {name} {in_words(axes)} takes waveforms of any length, and a bundle has one:"
            " expected --num-samples"
        )
    if axes[-1] not in (None, num_samples):
        raise SourceError(f"num_samples: got {num_samples}, expected {axes[-1]}, as {name} has it, or none")
    try:
        sound = AudioInput(options.sample_rate_hz, num_samples)
    except ValueError as error:
        raise SourceError(str(error)) from None
    mean, std, integers = _numbers(options, 1)
    return Entry(name, sound, axes[0], "NCHW", len(axes) == 3, False, integers, False, mean, std)
