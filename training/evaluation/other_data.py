"""Another data set than the encoder's own, in the shape that the encoder takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.data import Data, DataError, ImageShape, Rows, load_data
from training.data.loading import every_row
from training.data.origin import DataOrigin
from training.data.rows import Values

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB into grey


def in_shape_of(origin: DataOrigin, spec: str) -> Data:
    """A data set with the size and the channels that the encoder takes."""
    if not isinstance(origin.shape, ImageShape):
        raise DataError(f"transfer: got an encoder of {origin.shape.modality}, expected one on images")
    data = load_data(spec, origin.shape.image_size, origin.seed)
    if not isinstance(data.shape, ImageShape):
        raise DataError(f"transfer: got {spec}, which is {data.shape.modality}, expected images")
    channels = origin.shape.channels
    train, calibration, test = (with_channels(rows, channels) for rows in (data.train, data.calibration, data.test))
    return Data(data.spec, train, calibration, test)


def every_row_in_shape_of(origin: DataOrigin, spec: str) -> Values | None:
    """All rows of a user's own data, as the encoder takes them; None of other data."""
    shape = origin.shape
    if isinstance(shape, ImageShape):
        rows = None if spec.startswith("audio:") else every_row(spec, shape.image_size)
        return None if rows is None else with_channels(rows, shape.channels).values
    sound = every_row(spec, None, shape.sample_rate_hz, shape.num_samples) if spec.startswith("audio:") else None
    return None if sound is None else sound.values


def with_channels(images: Rows, channels: int) -> Rows:
    """The images as grey or as colour ones."""
    values_NHWC = images.values
    if (got := values_NHWC.shape[-1]) == channels:
        return images
    grey = np.rint(values_NHWC @ np.array(LUMA)).astype(np.uint8)[..., None] if got == 3 else values_NHWC
    return replace(images, values=np.repeat(grey, channels, axis=-1))
