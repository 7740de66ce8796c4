"""scikit-learn's digits: 1,797 grey images of 8 x 8, embedded in the package, no download.

Source: the test part of UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from training.data.rows import Data, Rows, split_off
from training.data.sizes import Size, resized

NUM_CALIBRATION = 300
NUM_TEST = 300


def load(size: Size | None, seed: int) -> Data:
    """1,197 training rows, 300 for calibration, 300 for test, drawn by the seed."""
    digits = load_digits()
    grey_0_16 = digits.images[..., None]
    images_NHWC = np.round(grey_0_16 * (255 / 16)).astype(np.uint8)
    images = Rows(resized(images_NHWC, size), digits.target.astype(np.int64)).with_twins()
    rest, test = split_off(images, NUM_TEST, seed)
    train, calibration = split_off(rest, NUM_CALIBRATION, seed)
    return Data("digits", train, calibration, test)
