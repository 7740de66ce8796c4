"""What any method must beat: probes of pixels, of their principal components, and of the untrained network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from training.data import Data
from training.evaluation.probes import knn_accuracy, linear_probe_accuracy
from training.networks import floats_from_rows
from training.run import Run

PCA_DIM = 16


def probes(data: Data, train: NDArray[Any], test: NDArray[Any]) -> tuple[float, float]:
    """Linear probe and kNN-20 accuracy of features of the train and test split."""
    assert data.train.labels_N is not None
    assert data.test.labels_N is not None
    labels, test_labels = data.train.labels_N, data.test.labels_N
    return linear_probe_accuracy(train, labels, test, test_labels), knn_accuracy(train, labels, test, test_labels)


def floors(run: Run, data: Data) -> dict[str, tuple[float, float]]:
    """Linear and kNN-20 accuracy of each floor, by its name."""
    pixels = [_flat(split.values) for split in (data.train, data.test)]
    pca = PCA(PCA_DIM, random_state=0).fit(pixels[0])
    untrained = [_untrained(run, split.values) for split in (data.train, data.test)]
    features = {
        "pixels": pixels,
        f"PCA-{PCA_DIM}": [pca.transform(split) for split in pixels],
        "random init": untrained,
    }
    return {name: probes(data, *splits) for name, splits in features.items()}


def _flat(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images_NHWC.reshape(len(images_NHWC), -1).astype(np.float32) / np.float32(255)


def _untrained(run: Run, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    torch.manual_seed(run.loop.seed)
    model: Any = run.build().eval()
    with torch.no_grad():
        parts = [
            model.encode(floats_from_rows(part)).embedding for part in torch.split(torch.from_numpy(images_NHWC), 1000)
        ]
    embeddings: NDArray[np.float32] = torch.cat(parts).numpy()
    return embeddings
