"""MNIST: 60,000 + 10,000 grey images of 28 x 28.

Read from `$LATENTSERVE_DATA/MNIST/raw` if LATENTSERVE_DATA is set, else downloaded once to
`~/.cache/latentserve`. Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import numpy as np
from torchvision.datasets import MNIST

from training.data.rows import Data, DataError, Rows, split_off
from training.data.sizes import Size, resized
from training.data.source import CACHE, given_folder

NUM_CALIBRATION = 5000


def load(size: Size | None, seed: int) -> Data:
    """55,000 training rows, 5,000 of the official training set for calibration, the official test set."""
    test = _read(False, size)
    train, calibration = split_off(_read(True, size).without(test).with_twins(), NUM_CALIBRATION, seed)
    return Data("mnist", train, calibration, test)


def _read(train: bool, size: Size | None) -> Rows:
    given = given_folder()
    root = given or CACHE
    try:
        dataset = MNIST(str(root), train=train, download=not given)
    except (RuntimeError, OSError) as error:
        if given:
            raise DataError(
                f"mnist: LATENTSERVE_DATA is {given}, expected the IDX files under {root / 'MNIST' / 'raw'}"
            ) from error
        raise DataError(
            f"mnist: the download to {root} failed ({error}); set LATENTSERVE_DATA to a folder that holds"
            " MNIST/raw with the four IDX files"
        ) from error
    images_NHWC = dataset.data.numpy()[..., None]
    return Rows(resized(images_NHWC, size), dataset.targets.numpy().astype(np.int64))
