"""A convolutional encoder for images of 8 to 64 pixels, sized for a CPU, and its mirror image, a decoder.

Shape legend: B rows, H height, W width, C channels, D embedding, L latent.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

SMALLEST_FEATURE_MAP = 7


ImageSize = int | tuple[int, int]
"""Height and width, or the side of a square."""


def height_and_width(image_size: ImageSize) -> tuple[int, int]:
    """Both sides."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def halvings(image_size: ImageSize) -> list[tuple[int, int]]:
    """The heights and widths that stride-2 convolutions go through: 28 -> [(28, 28), (14, 14), (7, 7)].

    The last has the area of a square of 7 pixels or fewer, or is one pixel high or wide.

    Raises:
        ValueError: a side below 8.
    """
    sizes = [height_and_width(image_size)]
    if min(sizes[0]) < 8:
        raise ValueError(f"image_size: got {min(sizes[0])}, expected 8 or more")
    while math.prod(sizes[-1]) > SMALLEST_FEATURE_MAP**2 and min(sizes[-1]) > 1:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


class ConvEncoder(nn.Sequential):
    """float [B, C, H, W] -> features [B, D], 0 or greater.

    Stride-2 convolutions down to 7 x 7 pixels or fewer, doubling the width, then one hidden layer.
    """

    def __init__(self, channels: int, image_size: ImageSize, width: int, embedding_dim: int) -> None:
        sizes = halvings(image_size)
        widths = [channels, *(width * 2**stage for stage in range(len(sizes) - 1))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        features = widths[-1] * math.prod(sizes[-1])
        layers += [nn.Flatten(), nn.Linear(features, embedding_dim, bias=False)]
        layers += [nn.BatchNorm1d(embedding_dim), nn.ReLU()]
        super().__init__(*layers)


class ConvDecoder(nn.Sequential):
    """latent [B, L] -> logits [B, C, H, W]: the mirror image of `ConvEncoder`."""

    def __init__(self, channels: int, image_size: ImageSize, width: int, hidden_dim: int, latent_dim: int) -> None:
        sizes = halvings(image_size)[::-1]
        widths = [*(width * 2**stage for stage in reversed(range(len(sizes) - 1))), channels]
        features = widths[0] * math.prod(sizes[0])
        layers: list[nn.Module] = [nn.Linear(latent_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim)]
        layers += [nn.ReLU(), nn.Linear(hidden_dim, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()]
        layers.append(nn.Unflatten(1, (widths[0], *sizes[0])))
        stages = list(zip(pairwise(sizes), pairwise(widths), strict=True))
        for (small, large), (before, after) in stages:
            odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])  # 0 or 1: a side that was odd before it was halved
            last = large == sizes[-1]
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1, output_padding=odd, bias=last))
            if not last:
                layers += [nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers)
