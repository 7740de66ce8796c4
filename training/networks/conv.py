"""A convolutional encoder for images of 8 to 64 pixels, sized for a CPU, and its mirror image, a decoder.

Shape legend: B rows, H height, W width, C channels, D embedding, L latent.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

SMALLEST_FEATURE_MAP = 7


def halvings(image_size: int) -> list[int]:
    """The sizes that stride-2 convolutions go through: 28 -> [28, 14, 7].

    Raises:
        ValueError: image_size below 8.
    """
    if image_size < 8:
        raise ValueError(f"image_size: got {image_size}, expected 8 or more")
    sizes = [image_size]
    while sizes[-1] > SMALLEST_FEATURE_MAP:
        sizes.append(sizes[-1] // 2)
    return sizes


class ConvEncoder(nn.Sequential):
    """float [B, C, H, W] -> features [B, D], 0 or greater.

    Stride-2 convolutions down to 7 pixels or fewer, doubling the width, then one hidden layer.
    """

    def __init__(self, channels: int, image_size: int, width: int, embedding_dim: int) -> None:
        sizes = halvings(image_size)
        widths = [channels, *(width * 2**stage for stage in range(len(sizes) - 1))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        features = widths[-1] * sizes[-1] ** 2
        layers += [nn.Flatten(), nn.Linear(features, embedding_dim, bias=False)]
        layers += [nn.BatchNorm1d(embedding_dim), nn.ReLU()]
        super().__init__(*layers)


class ConvDecoder(nn.Sequential):
    """latent [B, L] -> logits [B, C, H, W]: the mirror image of `ConvEncoder`."""

    def __init__(self, channels: int, image_size: int, width: int, hidden_dim: int, latent_dim: int) -> None:
        sizes = halvings(image_size)[::-1]
        widths = [*(width * 2**stage for stage in reversed(range(len(sizes) - 1))), channels]
        features = widths[0] * sizes[0] ** 2
        layers: list[nn.Module] = [nn.Linear(latent_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim)]
        layers += [nn.ReLU(), nn.Linear(hidden_dim, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()]
        layers.append(nn.Unflatten(1, (widths[0], sizes[0], sizes[0])))
        stages = list(zip(pairwise(sizes), pairwise(widths), strict=True))
        for (small, large), (before, after) in stages:
            odd = large - 2 * small  # 0 or 1: a size that was odd before it was halved
            last = after == channels and large == image_size
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1, output_padding=odd, bias=last))
            if not last:
                layers += [nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers)
