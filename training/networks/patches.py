"""Patches of an image: cut in a grid, jittered each by itself, encoded each alone.

Shape legend: B rows, C channels, H height, W width, G patches along a side, P pixels along a patch, D feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.ranks import mine, num_of_all


@dataclass(frozen=True)
class Jitter:
    """How far each training patch may be moved, drawn evenly for each patch.

    Attributes:
        rotation_degrees: to either side.
        stretch: of width and of height, each by exp(-stretch) to exp(stretch).
        shift_pixels: to either side, across and down.
    """

    rotation_degrees: float = 15.0
    stretch: float = 0.15
    shift_pixels: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "stretch", "shift_pixels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater")


def jittered_patches(x_BCHW: Tensor, patch_size: int, stride: int, jitter: Jitter) -> Tensor:
    """Cuts the grid of patches, [B, G, G, C, P, P], each turned, stretched and shifted by a draw of its own.

    Pixels outside the image are those of its edge.
    """
    num_rows, _, image_size, _ = x_BCHW.shape
    side = (image_size - patch_size) // stride + 1
    draws_5BGG = mine(torch.rand(5, num_of_all(num_rows), side, side, device=x_BCHW.device), dim=1) * 2 - 1
    angle, stretch_x, stretch_y, shift_x, shift_y = draws_5BGG[..., None, None]
    angle = angle * math.radians(jitter.rotation_degrees)
    stretch_x, stretch_y = (jitter.stretch * stretch_x).exp(), (jitter.stretch * stretch_y).exp()
    corner = torch.arange(side, device=x_BCHW.device) * stride + (patch_size - 1) / 2
    offset = torch.arange(patch_size, device=x_BCHW.device) - (patch_size - 1) / 2
    x = angle.cos() * stretch_x * offset - angle.sin() * stretch_y * offset[:, None]
    y = angle.sin() * stretch_x * offset + angle.cos() * stretch_y * offset[:, None]
    x = x + jitter.shift_pixels * shift_x + corner[:, None, None]
    y = y + jitter.shift_pixels * shift_y + corner[:, None, None, None]
    points = torch.stack(
        [(2 * x + 1) / image_size - 1, (2 * y + 1) / image_size - 1], dim=-1
    )  # grid_sample's own units
    cut = F.grid_sample(x_BCHW, points.flatten(1, 3), padding_mode="border", align_corners=False)
    return cut.view(*cut.shape[:2], side, side, patch_size, patch_size).permute(0, 2, 3, 1, 4, 5)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place alone: [B, C, H, W] -> [B, C, H, W]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """No place and no row hears of another."""
        return super().forward(x_BCHW.movedim(1, 3)).movedim(3, 1)


class ChannelBlock(nn.Module):
    """A residual block of two 1 x 1 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.change = nn.Sequential(ChannelNorm(dim), nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Same shape out."""
        changed_BDHW: Tensor = self.change(x_BDHW)
        return x_BDHW + changed_BDHW


class PatchEncoder(nn.Sequential):
    """float [B, C, H, W] -> features [B, D, G, G] of the patches that lie `stride` pixels apart.

    Every kernel and stride fits without padding and without a remainder, so the field of view is the patch.
    """

    def __init__(self, channels: int, patch_size: int, stride: int, width: int, feature_dim: int) -> None:
        layers: list[nn.Module] = []
        size, before, after = patch_size, channels, width
        for _ in range(stride.bit_length() - 1):
            kernel = 4 if size % 2 == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, 2), ChannelNorm(after), nn.ReLU()]
            size, before, after = (size - kernel) // 2 + 1, after, 2 * after
        while size > 4:
            layers += [nn.Conv2d(before, after, 3), ChannelNorm(after), nn.ReLU()]
            size, before = size - 2, after
        layers += [nn.Conv2d(before, feature_dim, size), ChannelBlock(feature_dim), ChannelNorm(feature_dim)]
        super().__init__(*layers)
