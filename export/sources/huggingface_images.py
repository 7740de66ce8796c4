"""What transformers' image processors do, in our words: preprocessing_config.json and what its class adds to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from export.sources.preprocessing import Preprocessing
from export.sources.source import SourceError, SourceOptions
from latentserve.inputs import Resize

FILE = "preprocessor_config.json"
FILTERS: dict[int, Any] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
STRETCHED_FROM = 384
"""ConvNeXt's processor crops smaller images out of larger ones, by `crop_pct`, and stretches these."""
DEFAULT_SHARE = 224 / 256
WHITE = 255.0


def preprocessing_of(transformers: Any, folder: Path, config: Any, options: SourceOptions) -> Preprocessing:
    """The folder's preprocessing with what the user says instead.

    Raises:
        SourceError: there is none, or one that is not said in our words.
    """
    processor = _processor(transformers, folder)
    channels = int(getattr(config, "num_channels", 3))
    if processor is None:
        if options.image_size is None or options.mean is None or options.std is None:
            raise SourceError(f"hf: got no {FILE} in {folder}, expected one, or --image-size, --mean and --std")
        return Preprocessing(options.image_size, channels=channels).said_by(options)
    mean, std = _normalising(processor, channels)
    how, number = _sizes(processor, options), processor.get("resample")
    filter_ = FILTERS.get(int(number) if number is not None else 2, "bilinear")
    size, resize = how[0], replace(how[1], filter=filter_, halves="down")
    return Preprocessing(size, resize, mean, std, "RGB", channels).said_by(options)


def _processor(transformers: Any, folder: Path) -> dict[str, Any] | None:
    if not (folder / FILE).is_file() and not (folder / "processor_config.json").is_file():
        return None
    try:
        made = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises of what it does not know
        said = str(error).strip().splitlines()
        raise SourceError(f"hf: {folder / FILE}: {said[0] if said else type(error).__name__}") from error
    found: dict[str, Any] = made.to_dict()
    return found


def _sizes(processor: dict[str, Any], options: SourceOptions) -> tuple[tuple[int, int], Resize]:
    """Height and width, and how images of other sizes become such."""
    size, crop = _plain(processor.get("size")), _plain(processor.get("crop_size"))
    cropped = _pair(crop) if processor.get("do_center_crop") else None
    edge = size.get("shortest_edge") if processor.get("do_resize", True) else None
    if edge is not None and processor.get("crop_pct") is not None:
        return _of_convnext(edge, processor["crop_pct"])
    if edge is not None and cropped is not None and size.get("longest_edge") is None:
        return cropped, Resize("crop", edge)
    if (whole := _pair(size)) is not None and cropped in (None, whole):
        return whole, Resize("stretch")
    if options.image_size is not None:
        return options.image_size, Resize(options.resize or "crop")
    raise SourceError(
        f"image_size: got none, and {FILE} names no single size (size {size}, crop_size {crop}): expected --image-size"
        " HEIGHTxWIDTH, best the size that the network was trained on"
    )


def _of_convnext(edge: int, share: float) -> tuple[tuple[int, int], Resize]:
    if edge >= STRETCHED_FROM:
        return (edge, edge), Resize("stretch")
    return (edge, edge), Resize("crop", int(edge / (share or DEFAULT_SHARE)))


def _normalising(processor: dict[str, Any], channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of values between 0 and 1, whatever the processor scales them to."""
    factor = float(processor.get("rescale_factor") or 1 / WHITE) if processor.get("do_rescale", True) else 1.0
    whole = WHITE * factor  # what white is before it is normalised
    has = processor.get("do_normalize", True) and processor.get("image_mean") is not None
    mean = processor["image_mean"] if has else [0.0] * channels
    std = processor["image_std"] if has else [1.0] * channels
    if not has and abs(whole - 1) < 1e-6:
        return None, None
    return tuple(one / whole for one in mean), tuple(one / whole for one in std)


def _plain(size: Any) -> dict[str, int]:
    """A size as old files have it, one number, or as new ones have it."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {name: value for name, value in dict(size).items() if value is not None}


def _pair(size: dict[str, int]) -> tuple[int, int] | None:
    return (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None
