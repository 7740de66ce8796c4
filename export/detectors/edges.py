"""Where an input changes, and in which direction: strokes and contours of an image, onsets and glides of a sound.

    images       edges in each of 8 directions, averaged over cells that overlap by half                     [B, F]
    waveforms    edges of the log spectrogram in each of 8 directions, averaged over time for each band      [B, F]

Brightness that is spread out says little of what is drawn; a histogram of gradients keeps what a stroke looks like and
forgives where exactly it is. Of a sound it keeps what the mean spectrum cannot: which way round it was played.

Source: Dalal and Triggs, Histograms of oriented gradients for human detection, CVPR 2005. Ours has no normalisation of
neighbouring cells: the detector scales all features of a row at once.

Shape legend: B rows, H height, W width, C channels, T samples, N frames, K bands, O directions, F features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from export.detectors.coarse import FRAME_SAMPLES, log_bands
from training.preprocessing import image_from_uint8

DIRECTIONS = 8
LARGEST_SIDE = 32
CELLS = 7  # along a side, about
KERNEL = 3


def _sobel() -> Tensor:
    """Sobel's derivative along each direction, [O, 1, 3, 3]."""
    across = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    kernels = [np.cos(angle) * across + np.sin(angle) * across.T for angle in angles]
    return torch.from_numpy(np.stack(kernels)[:, None].astype(np.float32))


SOBEL = _sobel()


def edges(x_B1HW: Tensor) -> Tensor:
    """How much brighter it gets in each direction, 0 where it gets darker, [B, O, H - 2, W - 2]."""
    return torch.relu(F.conv2d(x_B1HW, SOBEL))


def edges_of(rows: Tensor) -> Tensor:
    """Float [B, F], 0 or greater, of rows as clients send them."""
    return spectral_edges_of(rows) if rows.dtype == torch.int16 else image_edges_of(rows)


def image_edges_of(rows_BHWC: Tensor) -> Tensor:
    """Edges of the grey image, of 32 pixels a side at most, in cells."""
    x_B1HW = image_from_uint8(rows_BHWC).mean(dim=1, keepdim=True)
    side = -(-max(x_B1HW.shape[2:]) // LARGEST_SIDE)
    if side > 1:
        x_B1HW = F.avg_pool2d(x_B1HW, side)
    edges_BOHW = edges(x_B1HW)
    stride = max(1, round(min(edges_BOHW.shape[2:]) / CELLS))
    return F.avg_pool2d(edges_BOHW, stride + stride // 2, stride).flatten(1)


def spectral_edges_of(rows_BT: Tensor) -> Tensor:
    """Edges of the log power of bands, frame after frame; silence follows what is shorter than three frames."""
    missing = KERNEL * FRAME_SAMPLES - rows_BT.shape[1]
    log_BNK = log_bands(F.pad(rows_BT, (0, missing)) if missing > 0 else rows_BT)
    return edges(log_BNK[:, None].float()).mean(dim=2).flatten(1)
