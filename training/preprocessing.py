"""From rows as data sets hold them and clients send them to the floats that encoders take.

This is a part of the exported graph, so the service needs no preprocessing of its own.

Shape legend: B rows, H height, W width, C channels, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor


def image_from_uint8(x_BHWC: Tensor) -> Tensor:
    """uint8 [B, H, W, C] to float [B, C, H, W], 0 to 1."""
    return x_BHWC.permute(0, 3, 1, 2).to(torch.float32) / 255


def waveform_from_int16(x_BT: Tensor) -> Tensor:
    """int16 [B, T] to float [B, T], -1 to 1. Silence stays exactly 0."""
    return x_BT.to(torch.float32) / 32768


def floats_from_rows(rows: Tensor) -> Tensor:
    """Converts images or waveforms, whichever the rows are: the first step of every encoder."""
    return waveform_from_int16(rows) if rows.dtype == torch.int16 else image_from_uint8(rows)
