"""What an input looks like from afar.

    images       pixels, averaged to 16 a side at most                                                       [B, F]
    waveforms    log power in bands of frequency, its mean and standard deviation over time                  [B, F]

Shape legend: B rows, H height, W width, C channels, T samples, N frames, S samples of a frame, K bands, F
features (of a spectrum: frequencies).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.preprocessing import image_from_uint8, waveform_from_int16

LARGEST_SIDE = 16
FRAME_SAMPLES = 256  # 32 ms at 8 kHz
NUM_BANDS = 20  # at most: the lowest are one frequency wide, and equal ones are merged
QUIET = 1e-4
"""Power that counts as none: that of a sine 76 dB below full scale at its frequency. Noise of 16 bits is far below."""


def _fourier() -> Tensor:
    """Cosines and sines of a frame under a Hann window, [S, 2 F]."""
    time_S, frequency_F = np.arange(FRAME_SAMPLES), np.arange(1, FRAME_SAMPLES // 2 + 1)
    angle_SF = 2 * np.pi * time_S[:, None] * frequency_F / FRAME_SAMPLES
    window_S1 = np.hanning(FRAME_SAMPLES + 1)[:-1, None]
    waves_S2F = np.concatenate([np.cos(angle_SF), np.sin(angle_SF)], axis=1) * window_S1
    return torch.from_numpy(waves_S2F.astype(np.float32))


def _bands() -> Tensor:
    """Averages over bands that widen with frequency, [F, K]."""
    num_frequencies = FRAME_SAMPLES // 2
    edges = np.unique(np.round(np.geomspace(1, num_frequencies + 1, NUM_BANDS + 1)).astype(int)) - 1
    bands = np.zeros((num_frequencies, len(edges) - 1), np.float32)
    for band, (low, high) in enumerate(pairwise(edges)):
        bands[low:high, band] = 1 / (high - low)
    return torch.from_numpy(bands)


FOURIER_S2F, BANDS = _fourier(), _bands()


def coarse(rows: Tensor) -> Tensor:
    """Float [B, F] of rows as clients send them."""
    return bands_of(rows) if rows.dtype == torch.int16 else pixels_of(rows)


def pixels_of(rows_BHWC: Tensor) -> Tensor:
    """Pixels averaged over squares; what is left over at the right and at the bottom is left out."""
    x_BCHW = image_from_uint8(rows_BHWC)
    side = -(-max(x_BCHW.shape[2:]) // LARGEST_SIDE)
    return (F.avg_pool2d(x_BCHW, side) if side > 1 else x_BCHW).flatten(1)


def bands_of(rows_BT: Tensor) -> Tensor:
    """Log power of each band: its mean over frames, then its standard deviation."""
    log_BNK = log_bands(rows_BT)
    mean_BK = log_BNK.mean(dim=1)
    deviation_BK = (log_BNK - mean_BK[:, None]).square().mean(dim=1).sqrt()
    return torch.cat([mean_BK, deviation_BK], dim=1).float()


def log_bands(rows_BT: Tensor) -> Tensor:
    """Log power of each band in each frame, float64 [B, N, K]; silence follows what is shorter than a frame."""
    x_BT = waveform_from_int16(rows_BT)
    if x_BT.shape[1] < FRAME_SAMPLES:
        x_BT = F.pad(x_BT, (0, FRAME_SAMPLES - x_BT.shape[1]))
    num_frames = x_BT.shape[1] // FRAME_SAMPLES
    x_BT = x_BT[:, : num_frames * FRAME_SAMPLES]
    waves_BN2F = x_BT.reshape(-1, num_frames, FRAME_SAMPLES) @ FOURIER_S2F
    cosine, sine = waves_BN2F.square().chunk(2, dim=2)
    power_BNK = (cosine + sine) @ BANDS
    return (power_BNK + QUIET).double().log()  # in float64: see `fusion`
