"""CIFAR-10: 50,000 + 10,000 RGB images of 32 x 32.

Read from the WebDataset shards `$LATENTSERVE_DATA/cifar10-jpeg/{train,test}-*.tar.gz` if LATENTSERVE_DATA is set
(JPEG, so not the original pixels), else downloaded once to `~/.cache/latentserve`.
Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import numpy as np
from torchvision.datasets import CIFAR10

from training.data import shards
from training.data.rows import Data, DataError, Rows, split_off
from training.data.sizes import Size, resized
from training.data.source import CACHE, given_folder

NUM_CALIBRATION = 5000
IMAGE_SIZE = 32


def load(size: Size | None, seed: int) -> Data:
    """45,000 training rows, 5,000 of the official training set for calibration, the official test set."""
    test = read("test", size)
    train, calibration = split_off(read("train", size).without(test).with_twins(), NUM_CALIBRATION, seed)
    return Data("cifar10", train, calibration, test)


def read(split: str, size: Size | None) -> Rows:
    """The official split `train` or `test`.

    Raises:
        DataError: it is not where it should be, or cannot be downloaded.
    """
    given = given_folder()
    if given:
        try:
            found = shards.matching(str(given / "cifar10-jpeg" / f"{split}-*.tar.gz"))
        except DataError as error:
            raise DataError(
                f"cifar10: LATENTSERVE_DATA is {given}, expected WebDataset shards"
                f" {given / 'cifar10-jpeg'}/{split}-*.tar.gz"
            ) from error
        return shards.read(found, size or Size(IMAGE_SIZE, IMAGE_SIZE))
    try:
        dataset = CIFAR10(str(CACHE), train=split == "train", download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"cifar10: the download to {CACHE} failed ({error}); set LATENTSERVE_DATA to a folder that holds"
            " cifar10-jpeg with WebDataset shards train-*.tar.gz and test-*.tar.gz"
        ) from error
    return Rows(resized(dataset.data, size), np.array(dataset.targets, np.int64))
