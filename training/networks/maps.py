"""Networks from an image to a map of vectors and back, for methods whose code has places.

Shape legend: B rows, C channels, H height, W width, D numbers of a place, h and w places, S cells along a side.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from training.networks.backbones import Residual
from training.networks.conv import ImageSize, height_and_width

NUM_RESIDUALS = 2  # as in the VQ-VAE paper, section 4.1


def sides(image_size: ImageSize, num_halvings: int) -> list[tuple[int, int]]:
    """The heights and widths that so many stride-2 convolutions go through: 28, 2 -> [(28, 28), (14, 14), (7, 7)].

    Raises:
        ValueError: not even one place would be left.
    """
    found = [height_and_width(image_size)]
    for _ in range(num_halvings):
        found.append((found[-1][0] // 2, found[-1][1] // 2))
        if min(found[-1]) < 1:
            most = min(found[0]).bit_length() - 1
            size = "{} x {}".format(*found[0])
            raise ValueError(f"halvings: got {num_halvings} for images of {size}, expected at most {most}")
    return found


class MapEncoder(nn.Sequential):
    """float [B, C, H, W] -> float [B, D, h, w], of any sign: halvings, residual blocks, a linear map of a place."""

    def __init__(self, channels: int, image_size: ImageSize, num_halvings: int, width: int, dim: int) -> None:
        sides(image_size, num_halvings)
        widths = [channels, *(width * 2**stage for stage in range(num_halvings))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [Residual(widths[-1]) for _ in range(NUM_RESIDUALS)]
        layers.append(nn.Conv2d(widths[-1], dim, 1))
        super().__init__(*layers)


class MapDecoder(nn.Sequential):
    """float [B, D, h, w] -> logits [B, C, H, W]: the mirror image of `MapEncoder`."""

    def __init__(self, channels: int, image_size: ImageSize, num_halvings: int, width: int, dim: int) -> None:
        sizes = sides(image_size, num_halvings)[::-1]
        widths = [*(width * 2**stage for stage in reversed(range(num_halvings))), channels]
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 3, 1, 1)]
        layers += [Residual(widths[0]) for _ in range(NUM_RESIDUALS)]
        for stage, ((small, large), (before, after)) in enumerate(
            zip(pairwise(sizes), pairwise(widths), strict=True), 1
        ):
            odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])  # 0 or 1: a side that was odd before it was halved
            last = stage == num_halvings
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1, output_padding=odd, bias=last))
            if not last:
                layers += [nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers)


def pooled(x_BDhw: Tensor, num_cells: int) -> Tensor:
    """Means over a grid of S x S cells, [B, D S S]; S is at most the number of places along a side.

    It is `F.adaptive_avg_pool2d`, written as two products, which every ONNX runtime has.
    """
    rows_Sh, columns_Sw = (_means(int(side), num_cells).to(x_BDhw) for side in x_BDhw.shape[2:])
    return (rows_Sh @ x_BDhw @ columns_Sw.T).flatten(1)


def _means(side: int, num_cells: int) -> Tensor:
    """The matrix [S, side] whose products are means over cells; cells overlap where they do not fit."""
    num = min(side, num_cells)
    means_Sh = torch.zeros(num, side)
    for cell in range(num):
        start, stop = cell * side // num, -(-(cell + 1) * side // num)
        means_Sh[cell, start:stop] = 1 / (stop - start)
    return means_Sh
