"""What the encoders of `benchmarks.serving.encoders` take, for those who need no network to know it."""

from __future__ import annotations

from typing import Any

import numpy as np

IMAGE_SIZE, CHANNELS = 32, 3
SIZES = {"small": IMAGE_SIZE, "r18": IMAGE_SIZE, "resnet50": 224, "vit_s16": 224}


def images(name: str, num_rows: int) -> Any:
    """Noise in the shape that an encoder takes, uint8 [num_rows, H, W, C]."""
    size = SIZES[name]
    return np.random.default_rng(0).integers(0, 256, (num_rows, size, size, CHANNELS), dtype=np.uint8)
