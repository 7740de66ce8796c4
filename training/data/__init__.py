"""Data sets by name: `digits`, `mnist`, `cifar10`, `shapes`, `folder:PATH`, `wds:PATTERN`.

    data = load_data("mnist", image_size=None, seed=0)
    data.train.images_NHWC        # uint8

Every set comes in three splits that share no row. Only `train` is trained on; `calibration` is what
out-of-distribution scores are calibrated on; `test` is what figures are reported on.
"""

from training.data.image_data import DataError, ImageData, Images, load_data

__all__ = ["DataError", "ImageData", "Images", "load_data"]
