"""Images with their splits, and the one function that loads them by name.

Shape legend: N rows, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OWN_IMAGE_SIZE = 64
"""Of a user's own images, where none is asked for."""
CALIBRATION_SHARE = TEST_SHARE = 0.1


class DataError(ValueError):
    """Data cannot be loaded. The message says what was got, what was expected and what to do."""


@dataclass(frozen=True)
class Images:
    """Rows of one split.

    Attributes:
        images_NHWC: uint8.
        labels_N: int64 class of each row, or None where there are none. Never trained on.
    """

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def take(self, rows: NDArray[Any] | slice) -> Images:
        """Some of the rows."""
        return Images(self.images_NHWC[rows], None if self.labels_N is None else self.labels_N[rows])


@dataclass(frozen=True)
class ImageData:
    """A data set in three splits that share no row."""

    spec: str
    train: Images
    calibration: Images
    test: Images

    @property
    def fingerprint(self) -> str:
        """sha256 of the training rows in their order, in hex."""
        return hashlib.sha256(np.ascontiguousarray(self.train.images_NHWC).data).hexdigest()


def load_data(spec: str, image_size: int | None = None, seed: int = 0) -> ImageData:
    """Loads a data set by its spec.

    Args:
        spec: `digits`, `mnist`, `cifar10`, `shapes`, `folder:PATH` or `wds:PATTERN`.
        image_size: height and width; None for the set's own.
        seed: draws the splits where the set brings none.

    Raises:
        DataError: unknown spec, missing or empty folder, failed download.
    """
    # Imported here: torchvision alone takes seconds, and digits does not need it.
    from training.data import cifar10, digits, folder, mnist, shapes, shards

    name, _, argument = spec.partition(":")
    own = {"folder": folder.load, "wds": shards.load}
    if name in own:
        return own[name](argument, image_size or OWN_IMAGE_SIZE, seed)
    loaders = {"digits": digits.load, "mnist": mnist.load, "cifar10": cifar10.load, "shapes": shapes.load}
    if name not in loaders or argument:
        raise DataError(f"data: got {spec!r}, expected one of {', '.join(loaders)}, folder:PATH or wds:PATTERN")
    return loaders[name](image_size, seed)


def three_splits(spec: str, images: Images, seed: int) -> ImageData:
    """A set that brings no splits: 80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed."""
    rest, test = split_off(images, max(1, int(len(images) * TEST_SHARE)), seed)
    train, calibration = split_off(rest, max(1, int(len(images) * CALIBRATION_SHARE)), seed)
    return ImageData(spec, train, calibration, test)


def split_off(images: Images, num_rows: int, seed: int) -> tuple[Images, Images]:
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
