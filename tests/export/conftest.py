"""What several tests of exports and imports take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred JPEGs of two kinds, each of a size of its own; not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(200):
        kind = folder / ("light" if i % 2 else "dark")
        kind.mkdir(exist_ok=True)
        pixels = rng.integers(0, 128, (4, 4, 3), dtype=np.uint8) + np.uint8(120 * (i % 2))
        size = int(rng.integers(30, 60)), int(rng.integers(30, 60))
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(kind / f"{i}.jpg", quality=95)
    return folder
