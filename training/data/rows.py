"""Rows with their splits, and the one function that loads them by name.

A row is what the model takes: an image, uint8 [H, W, C], or a clip of sound, int16 [T].

Shape legend: N rows, H height, W width, C channels, T samples, F factors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentserve import records

CALIBRATION_SHARE = TEST_SHARE = 0.1
LONG_ROW_SECONDS = 2.56
"""20,480 samples at 8 kHz: as many as a row of van den Oord et al., section 3.1, https://arxiv.org/abs/1807.03748."""


class DataError(ValueError):
    """Data cannot be loaded. The message says what was got, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(records.printable(message))  # it may name a file


@dataclass(frozen=True)
class ImageShape:
    """Images of height and width `image_size`: uint8, 0 (black) to 255 (white)."""

    image_size: int
    channels: int
    modality: Literal["image"] = "image"


@dataclass(frozen=True)
class AudioShape:
    """Clips of `num_samples` samples, one channel: int16."""

    sample_rate_hz: int
    num_samples: int
    modality: Literal["audio"] = "audio"


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Attributes:
        values: uint8 [N, H, W, C] or int16 [N, T].
        labels_N: int64 class of each row, or None where there are none. Never trained on.
        groups_N: int64 source of each row (its speaker), or None where it is not known.
        factors_NF: int64 value of each generative factor, 0 and up, or None where they are not known. Never
            trained on.
    """

    values: NDArray[Any]
    labels_N: NDArray[np.int64] | None = None
    groups_N: NDArray[np.int64] | None = None
    factors_NF: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any] | slice) -> Rows:
        """Some of the rows."""
        known = (self.labels_N, self.groups_N, self.factors_NF)
        return Rows(self.values[rows], *(None if of_rows is None else of_rows[rows] for of_rows in known))


@dataclass(frozen=True)
class Data:
    """A data set in three splits that share no row.

    Attributes:
        spec: what it was loaded by.
        train: the only split that is trained on.
        calibration: for out-of-distribution scores.
        test: for figures.
        sample_rate_hz: of audio, else None.
    """

    spec: str
    train: Rows
    calibration: Rows
    test: Rows
    sample_rate_hz: int | None = None

    @property
    def shape(self) -> ImageShape | AudioShape:
        """What one row is."""
        if self.sample_rate_hz is not None:
            return AudioShape(self.sample_rate_hz, self.train.values.shape[1])
        _, height, _, channels = self.train.values.shape
        return ImageShape(height, channels)

    @property
    def training_rows(self) -> NDArray[Any]:
        """What the training loop cuts batches from: the training split, or of audio its long rows."""
        return self._long_rows(self.train)

    @property
    def test_rows(self) -> NDArray[Any]:
        """As `training_rows`, of the test split; there may be none."""
        return self._long_rows(self.test)

    def _long_rows(self, split: Rows) -> NDArray[Any]:
        if self.sample_rate_hz is None:
            return split.values
        return joined(split, int(LONG_ROW_SECONDS * self.sample_rate_hz))

    @property
    def fingerprint(self) -> str:
        """sha256 of the training rows in their order, in hex."""
        return hashlib.sha256(np.ascontiguousarray(self.train.values).data).hexdigest()


def three_splits(spec: str, rows: Rows, seed: int, sample_rate_hz: int | None = None) -> Data:
    """A set that brings no splits: 80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed."""
    rest, test = split_off(rows, max(1, int(len(rows) * TEST_SHARE)), seed)
    train, calibration = split_off(rest, max(1, int(len(rows) * CALIBRATION_SHARE)), seed)
    return Data(spec, train, calibration, test, sample_rate_hz)


def split_off(rows: Rows, num_rows: int, seed: int) -> tuple[Rows, Rows]:
    """Two disjoint parts of a set, drawn by the seed: the rest, and `num_rows` rows."""
    order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    return rows.take(np.sort(order[num_rows:])), rows.take(np.sort(order[:num_rows]))


def joined(clips: Rows, num_samples: int) -> NDArray[np.int16]:
    """Long rows of sound, int16 [M, num_samples]: clips of one group after another, without their padding.

    Each sample is used at most once; what is left of a group at its end and fills no row is dropped.
    """
    groups_N = np.zeros(len(clips), np.int64) if clips.groups_N is None else clips.groups_N
    parts = []
    for group in np.unique(groups_N):
        sound_T = np.concatenate([np.trim_zeros(clip_T, "b") for clip_T in clips.values[groups_N == group]])
        num_rows = len(sound_T) // num_samples
        parts.append(sound_T[: num_rows * num_samples].reshape(num_rows, num_samples))
    return np.concatenate(parts)


def resized(images_NHWC: NDArray[np.uint8], image_size: int | None) -> NDArray[np.uint8]:
    """Every image at another size, as `latentserve.images` would resize it."""
    if image_size is None or images_NHWC.shape[1:3] == (image_size, image_size):
        return images_NHWC
    from latentserve.images import fit_image

    num, _, _, channels = images_NHWC.shape
    out = np.empty((num, image_size, image_size, channels), np.uint8)
    for row, image_HWC in enumerate(images_NHWC):
        out[row] = fit_image(image_HWC, image_size, image_size)
    return out
