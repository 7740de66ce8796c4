"""Images unlike the training data, made without a download, and how well scores tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from training.data import shapes


def strange_images(test_NHWC: NDArray[np.uint8], seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """Sets as large as the test set and of its shape: rendered shapes, mirror images, noise."""
    num, height, width, channels = test_NHWC.shape
    rng = np.random.default_rng(seed)
    rendered = shapes.render(rng.permutation(shapes.NUM_SHAPES)[:num], max(height, width))
    return {
        "shapes": np.repeat(rendered[:, :height, :width], channels, axis=3),
        "horizontal_flip": np.ascontiguousarray(test_NHWC[:, :, ::-1]),
        "noise": rng.integers(0, 256, test_NHWC.shape, dtype=np.uint8),
    }


def auroc(usual_scores: NDArray[Any], strange_scores: NDArray[Any]) -> float:
    """Probability that a strange item scores higher than a usual one, ties counting half; 0.5 is chance."""
    truth = np.concatenate([np.zeros(len(usual_scores)), np.ones(len(strange_scores))])
    return float(roc_auc_score(truth, np.concatenate([usual_scores, strange_scores])))
