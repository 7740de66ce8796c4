"""A vector for each place in an image: the maps that a convolutional network makes on its way to one vector.

Of the maps after each halving two are taken, the finest that is not too large and the one after it. Each number becomes
the mean over its 3 x 3 neighbourhood, so that a fault that lies a pixel further to the right is the same fault; of the
finer map every second mean is taken, so that both have one grid. Where that would be too coarse the finer map is all.

ONNX Runtime computes what nobody asked for, too, it only does not return it. So this has to be cheap: it adds some
percent to the encoder's time, where bringing the coarser map to the finer grid added 9 to 14 %.

Source: Roth et al., Towards total recall in industrial anomaly detection (PatchCore), section 3.1,
https://arxiv.org/abs/2106.08265.

Shape legend: B rows, C channels, H height, W width, D numbers of a place, h and w places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_GRID = 28
"""Places along a side. An image of 96 pixels has 24 after two halvings, one of 224 has 28 after three."""
SMALLEST_GRID = 3
"""With fewer along a side an anomaly is hardly located."""
SMALLEST_OF_TWO = 7
"""Places along a side of the coarser map, if both are used."""
LARGEST_DIM = 128
"""Numbers of a place from one map; neighbouring channels of more are averaged, as in PatchCore."""


def maps_of(layers: Iterable[nn.Module], x_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What layers make of an image, one after another, and the last map of each size on the way, the finest first."""
    maps: dict[tuple[int, ...], Tensor] = {}
    x = x_BCHW
    for layer in layers:
        x = layer(x)
        if x.ndim == x_BCHW.ndim:
            maps[tuple(x.shape[2:])] = x
    return x, list(maps.values())


def patches_of(maps: Sequence[Tensor]) -> Tensor | None:
    """Patches [B, h, w, D] of maps [B, C, H, W], the finest first; None if all are too coarse to locate anything."""
    fitting = [x for x in maps if max(x.shape[2:]) <= LARGEST_GRID and min(x.shape[2:]) >= SMALLEST_GRID]
    if not fitting:
        return None
    finest, *coarser = fitting
    halved = tuple(-(-int(side) // 2) for side in finest.shape[2:])
    if coarser and tuple(coarser[0].shape[2:]) == halved and min(halved) >= SMALLEST_OF_TWO:
        parts = [_averaged(_narrowed(finest), 2), _averaged(_narrowed(coarser[0]), 1)]
    else:
        parts = [_averaged(_narrowed(finest), 1)]
    return torch.cat(parts, dim=1).permute(0, 2, 3, 1).contiguous()


def _averaged(x_BCHW: Tensor, stride: int) -> Tensor:
    """Means over 3 x 3 places; at the border over those that there are."""
    return F.avg_pool2d(x_BCHW, 3, stride, 1, count_include_pad=False)


def _narrowed(x_BCHW: Tensor) -> Tensor:
    """At most `LARGEST_DIM` channels: means of so many neighbouring ones; what is left over is left out."""
    num = -(-x_BCHW.shape[1] // LARGEST_DIM)
    if num == 1:
        return x_BCHW
    kept = x_BCHW.shape[1] // num
    by_group_BCGHW = x_BCHW[:, : kept * num].reshape(-1, kept, num, *x_BCHW.shape[2:])
    return by_group_BCGHW.mean(dim=2)
