"""Data sets by name: `digits`, `mnist`, `cifar10`, `shapes`, `folder:PATH`, `wds:PATTERN`, `fsdd`, `audio:PATH`.

    data = load_data("mnist", image_size=None, seed=0)
    data.train.values             # uint8 [N, H, W, C]; int16 [N, T] where it is audio

Every set comes in three splits that share no row. Only `train` is trained on; `calibration` is what
out-of-distribution scores are calibrated on; `test` is what figures are reported on.
"""

from training.data.loading import load_data
from training.data.rows import AudioShape, Data, DataError, ImageShape, Rows

__all__ = ["AudioShape", "Data", "DataError", "ImageShape", "Rows", "load_data"]
