"""Another data set than the run's own, in the shape that the run's encoder takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.data import Data, ImageShape, Rows, load_data
from training.data.lazy import Pixels, changed_rows
from training.data.loading import every_row
from training.data.rows import Values
from training.running.run import Run, RunError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB into grey


def in_shape_of(run: Run, spec: str) -> Data:
    """A data set with the size and the channels that the run's encoder takes."""
    if not isinstance(run.shape, ImageShape):
        raise RunError(f"transfer: got a run on {run.shape.modality}, expected one on images")
    data = load_data(spec, run.shape.image_size, run.loop.seed)
    if not isinstance(data.shape, ImageShape):
        raise RunError(f"transfer: got {spec}, which is {data.shape.modality}, expected images")
    channels = run.shape.channels
    train, calibration, test = (_with_channels(rows, channels) for rows in (data.train, data.calibration, data.test))
    return Data(data.spec, train, calibration, test)


def every_row_in_shape_of(run: Run, spec: str) -> Values | None:
    """All rows of a user's own data, as the run's encoder takes them; None of other data."""
    shape = run.shape
    if isinstance(shape, ImageShape):
        rows = None if spec.startswith("audio:") else every_row(spec, shape.image_size)
        return None if rows is None else _with_channels(rows, shape.channels).values
    sound = every_row(spec, None, shape.sample_rate_hz, shape.num_samples) if spec.startswith("audio:") else None
    return None if sound is None else sound.values


def _with_channels(images: Rows, channels: int) -> Rows:
    values_NHWC = images.values
    if (got := values_NHWC.shape[-1]) == channels:
        return images

    def change(rows_NHWC: Pixels) -> Pixels:
        grey = np.rint(rows_NHWC @ np.array(LUMA)).astype(np.uint8)[..., None] if got == 3 else rows_NHWC
        return np.repeat(grey, channels, axis=-1)

    return replace(images, values=changed_rows(values_NHWC, change))
