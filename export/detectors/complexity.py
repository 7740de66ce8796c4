"""How long the code of an image is that knows nothing of the training rows, by an estimate that fits in a graph.

Each number is predicted from those to the left, above, and left above, and what the prediction misses is counted: with
c_k the times that k was missed by, of N numbers, a code that knows the counts has

    L(x) = sum_k c_k log(N / c_k)       nats

PNG predicts and counts in much the same way; a file of its own cannot be written inside a graph. Counts need neither a
loop nor a sort: a number's 256 values are 16 by 16, and the counts of all pairs are one product of matrices.

Source of the prediction: Weinberger, Seroussi and Sapiro, The LOCO-I lossless image compression algorithm, IEEE
Transactions on Image Processing 9 (2000) 1309, equation 1.

Shape legend: B rows, H height, W width, C channels, N numbers of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS, HALF = 256, 16


def missed(rows_BHWC: Tensor) -> Tensor:
    """What the prediction misses each number by, modulo 256, float [B, N] of whole numbers from 0 to 255."""
    x_BCHW = rows_BHWC.permute(0, 3, 1, 2).to(torch.float32)
    padded = F.pad(x_BCHW, (1, 0, 1, 0))
    left, above, corner = padded[:, :, 1:, :-1], padded[:, :, :-1, 1:], padded[:, :, :-1, :-1]
    lower, upper = torch.minimum(left, above), torch.maximum(left, above)
    # the plane through all three where it lies between left and above: of an edge it is the one that goes on
    predicted = torch.minimum(torch.maximum(left + above - corner, lower), upper)
    error = (x_BCHW - predicted).flatten(1)
    return torch.where(error < 0, error + LEVELS, error)


def code_length(rows_BHWC: Tensor) -> Tensor:
    """L(x) of uint8 images, [B], nats."""
    error_BN = missed(rows_BHWC)
    high_BN = (error_BN / HALF).floor()
    ways = torch.arange(HALF, dtype=torch.float32)
    high_BNK = (high_BN[:, :, None] == ways).float()
    low_BNK = ((error_BN - HALF * high_BN)[:, :, None] == ways).float()
    counts_BKK = high_BNK.transpose(1, 2) @ low_BNK  # whole numbers: exact in any order
    counts = counts_BKK.double()  # see `fusion`
    return (counts * (error_BN.shape[1] / counts.clamp_min(1)).log()).flatten(1).sum(dim=1).float()
