"""Baselines that any method must beat: encoders that were not trained, or hardly.

Each is an `Encode` like the method's own, so the same evaluation report measures them.

Shape legend: N rows, H height, W width, C channels, D features, P patches of an image, Q pixels of a patch, K centres.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA

from training.data.lazy import parts_of
from training.data.rows import Values

Encode = Callable[[Values], NDArray[np.float32]]
"""Rows as `training.data` holds them to embeddings [N, D]."""

PATCH = 6
NUM_CENTRES = 200
NUM_PATCHES = 100_000  # to learn the centres from
CONTRAST_OFFSET = 10.0  # of pixels 0 to 255; Coates and Ng, section 4.3 of the tutorial named below
WHITENING_OFFSET = 0.1
_IMAGES_AT_ONCE = 50


def pixels(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The pixels themselves, 0 to 1."""
    flat = np.asarray(images_NHWC).reshape(len(images_NHWC), -1).astype(np.float32)
    flat /= np.float32(255)
    return flat


def principal_components(train_NHWC: NDArray[np.uint8], dim: int) -> Encode:
    """The first principal components of the training pixels."""
    flat = pixels(train_NHWC)
    with np.errstate(invalid="ignore"):  # scikit-learn's shares of a variance that is none: rows that are all alike
        pca = PCA(min(dim, *flat.shape), random_state=0).fit(flat)

    def encode(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        components: NDArray[np.float32] = pca.transform(pixels(images_NHWC)).astype(np.float32)
        return components

    return encode


def patch_centres(train_NHWC: NDArray[np.uint8], num_centres: int = NUM_CENTRES, seed: int = 0) -> Encode:
    """K-means centres of whitened patches, each image described by how near its patches are to them.

    A patch's activation of a centre is max(0, mean distance to all centres - distance to this one), summed over
    each quarter of the image. Source: Coates, Lee and Ng, An Analysis of Single-Layer Networks in Unsupervised
    Feature Learning, AISTATS 2011; constants: Coates and Ng, Learning Feature Representations with K-Means, 2012.

    Raises:
        ValueError: images smaller than a patch.
    """
    if min(train_NHWC.shape[1:3]) <= PATCH:
        raise ValueError(f"patches: got images of {train_NHWC.shape[1:3]}, expected more than {PATCH} pixels a side")
    rng = np.random.default_rng(seed)
    per_image = max(1, NUM_PATCHES // len(train_NHWC))
    some = rng.permutation(len(train_NHWC))[:NUM_PATCHES]
    parts = (_normalised_patches(np.asarray(train_NHWC[some[i : i + 100]])) for i in range(0, len(some), 100))
    drawn = np.concatenate([_drawn(patches_NPQ, per_image, rng) for patches_NPQ in parts])
    mean_Q = drawn.mean(axis=0)
    values, vectors_QQ = np.linalg.eigh(np.cov(drawn, rowvar=False))
    whiten_QQ = ((vectors_QQ / np.sqrt(values + WHITENING_OFFSET)) @ vectors_QQ.T).astype(np.float32)
    kmeans = MiniBatchKMeans(num_centres, batch_size=2000, n_init=1, random_state=seed)
    centres_KQ = kmeans.fit((drawn - mean_Q) @ whiten_QQ).cluster_centers_.astype(np.float32)

    def encode(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        blocks = parts_of(images_NHWC, _IMAGES_AT_ONCE)
        return np.concatenate([_activations(block, mean_Q, whiten_QQ, centres_KQ) for block in blocks])

    return encode


def _normalised_patches(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Every patch at stride 1, [N, P, Q], of mean 0 and about unit contrast."""
    windows = sliding_window_view(images_NHWC, (PATCH, PATCH), axis=(1, 2))
    patches_NPQ = windows.reshape(len(images_NHWC), windows.shape[1] * windows.shape[2], -1).astype(np.float32)
    patches_NPQ -= patches_NPQ.mean(axis=2, keepdims=True)
    patches_NPQ /= np.sqrt(np.square(patches_NPQ).mean(axis=2, keepdims=True) + np.float32(CONTRAST_OFFSET))
    return patches_NPQ


def _drawn(patches_NPQ: NDArray[np.float32], per_image: int, rng: np.random.Generator) -> NDArray[np.float32]:
    num, places, _ = patches_NPQ.shape
    chosen = rng.integers(0, places, (num, per_image))
    return np.take_along_axis(patches_NPQ, chosen[..., None], axis=1).reshape(num * per_image, -1)


def _activations(
    images_NHWC: NDArray[np.uint8],
    mean_Q: NDArray[np.float32],
    whiten_QQ: NDArray[np.float32],
    centres_KQ: NDArray[np.float32],
) -> NDArray[np.float32]:
    num, height, width, _ = images_NHWC.shape
    patches_NPQ = (_normalised_patches(images_NHWC) - mean_Q) @ whiten_QQ
    # |p - c|^2 = |p|^2 - 2 p c + |c|^2
    squared_NPK = np.square(patches_NPQ).sum(axis=2, keepdims=True) + np.square(centres_KQ).sum(axis=1)
    squared_NPK -= 2 * patches_NPQ @ centres_KQ.T
    distance_NPK = np.sqrt(np.maximum(squared_NPK, 0))
    active_NPK = np.maximum(distance_NPK.mean(axis=2, keepdims=True) - distance_NPK, 0)
    rows, columns = height - PATCH + 1, width - PATCH + 1
    grid = active_NPK.reshape(num, rows, columns, -1)
    halves = ((slice(0, rows // 2), slice(rows // 2, None)), (slice(0, columns // 2), slice(columns // 2, None)))
    quarters = [grid[:, y, x].sum(axis=(1, 2)) for y in halves[0] for x in halves[1]]
    return np.concatenate(quarters, axis=1)
