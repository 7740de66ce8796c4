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


class DataError(ValueError):
    """Data cannot be loaded. The message says what was got, what was expected and what to do."""


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
    def fingerprint(self) -> str:
        """sha256 of the training rows in their order, in hex."""
        return hashlib.sha256(np.ascontiguousarray(self.train.values).data).hexdigest()


def load_data(spec: str, image_size: int | None = None, seed: int = 0) -> Data:
    """Loads a data set by its spec.

    Args:
        spec: `digits`, `mnist`, `shapes` or `folder:PATH`.
        image_size: height and width; None for the set's own.
        seed: draws the splits where the set brings none.

    Raises:
        DataError: unknown spec, missing or empty folder, failed download.
    """
    # Imported here: torchvision alone takes seconds, and digits does not need it.
    from training.data import digits, folder, mnist, shapes

    name, _, argument = spec.partition(":")
    if name == "folder":
        return folder.load(argument, image_size or folder.IMAGE_SIZE, seed)
    loaders = {"digits": digits.load, "mnist": mnist.load, "shapes": shapes.load}
    if name not in loaders or argument:
        raise DataError(f"data: got {spec!r}, expected one of {', '.join(loaders)} or folder:PATH")
    return loaders[name](image_size, seed)


def split_off(images: Rows, num_rows: int, seed: int) -> tuple[Rows, Rows]:
    """Two disjoint parts of a set, drawn by the seed: the rest, and `num_rows` rows."""
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    return images.take(np.sort(order[num_rows:])), images.take(np.sort(order[:num_rows]))


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
