"""scikit-learn's digits: 1,797 grey images of 8 x 8, embedded in the package, no download.

Source: the test part of UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.rows import Data, Rows, split_off
from training.data.sizes import Size, resized

NUM_CALIBRATION = 300
NUM_TEST = 300


def load(size: Size | None, seed: int) -> Data:
    """1,197 training rows, 300 for calibration, 300 for test, drawn by the seed."""
    grey_0_16, labels_N = _grey_and_labels()
    images_NHWC = np.round(grey_0_16 * (255 / 16)).astype(np.uint8)
    images = Rows(resized(images_NHWC, size), labels_N).with_twins()
    rest, test = split_off(images, NUM_TEST, seed)
    train, calibration = split_off(rest, NUM_CALIBRATION, seed)
    return Data("digits", train, calibration, test)


def _grey_and_labels() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What `sklearn.datasets.load_digits` reads, [N, 8, 8, 1] and [N], without the seconds that its import takes."""
    origin = getattr(find_spec("sklearn"), "origin", None)
    if origin is None or not (file := Path(origin).parent / "datasets" / "data" / "digits.csv.gz").is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images[..., None], digits.target.astype(np.int64)
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
