"""Another data set than the encoder's own, in the shape that the encoder takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from training.data import Data, DataError, ImageShape, Rows, load_data
from training.data.decoding import MIN_IMAGES
from training.data.lazy import Pixels, changed_rows
from training.data.loading import every_row
from training.data.origin import DataOrigin
from training.data.rows import CALIBRATION_SHARE, TEST_SHARE, split_off
from training.data.units import count
from training.evaluation.progress import say

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB into grey


def in_shape(shape: ImageShape) -> dict[str, Any]:
    """The arguments of `load_data` and `every_row` that load images as those of another set are."""
    return {"image_size": "{}x{}".format(*shape.size), "resize": shape.resize}


def in_shape_of(origin: DataOrigin, spec: str, seed: int | None = None) -> Data:
    """A data set with the size and the channels that the encoder takes.

    Of a user's own rows none is set aside: nothing is calibrated here, so that a fifth of them is tested, the rest fits
    probes.

    Args:
        origin: of the encoder.
        spec: of the data.
        seed: draws the splits; None: the one of the encoder's own.
    """
    seed = origin.seed if seed is None else seed
    if (own := every_row_in_shape_of(origin, spec, MIN_IMAGES)) is not None:
        return _two_splits(origin, spec, own, seed)
    if not isinstance(origin.shape, ImageShape):
        raise DataError(f"transfer: got an encoder of {origin.shape.modality}, expected one on images")
    data = load_data(spec, **in_shape(origin.shape), seed=seed)
    if not isinstance(data.shape, ImageShape):
        raise DataError(f"transfer: got {spec}, which is {data.shape.modality}, expected images")
    return in_channels(data, origin.shape.channels)


def _two_splits(origin: DataOrigin, spec: str, rows: Rows, seed: int) -> Data:
    """All rows: those that fit probes, and those that are tested, one of each unit; none for calibration."""
    twins = rows.with_twins()
    num_test = max(1, int(count(twins.units_N, len(twins)) * (TEST_SHARE + CALIBRATION_SHARE)))
    train, test = split_off(twins, num_test, seed)
    num_left = len(rows) - len(train) - len(test)
    said = f", {num_left} are twins of tested ones" if num_left else ""
    say(f"{spec}: of {len(rows)} rows {len(train)} fit probes, {len(test)} are tested{said}")
    none, shape = test.take(slice(0, 0)), origin.shape
    if isinstance(shape, ImageShape):
        return Data(spec, train, none, test, resize=shape.resize)
    return Data(spec, train, none, test, shape.sample_rate_hz)


def every_row_in_shape_of(origin: DataOrigin, spec: str, at_least: int = 1) -> Rows | None:
    """All rows of a user's own data, as the encoder takes them; None of other data."""
    shape, is_sound = origin.shape, spec.startswith("audio:")
    if isinstance(shape, ImageShape):
        rows = None if is_sound else every_row(spec, **in_shape(shape), at_least=at_least)
        return None if rows is None else with_channels(rows, shape.channels)
    return every_row(spec, None, shape.sample_rate_hz, shape.num_samples, at_least=at_least) if is_sound else None


def in_channels(data: Data, channels: int) -> Data:
    """The same images in grey, or with a channel for each colour."""
    train, calibration, test = (with_channels(rows, channels) for rows in (data.train, data.calibration, data.test))
    return replace(data, train=train, calibration=calibration, test=test)


def with_channels(images: Rows, channels: int) -> Rows:
    """Images in grey, or with a channel for each colour."""
    values_NHWC = images.values
    if (got := values_NHWC.shape[-1]) == channels:
        return images

    def change(rows_NHWC: Pixels) -> Pixels:
        grey = np.rint(rows_NHWC @ np.array(LUMA)).astype(np.uint8)[..., None] if got == 3 else rows_NHWC
        return np.repeat(grey, channels, axis=-1)

    return replace(images, values=changed_rows(values_NHWC, change))
