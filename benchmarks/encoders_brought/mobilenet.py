"""ImageNet's MobileNetV2 by `latentserve import python:...`: pooled outputs of its stages.

The weights are those of `benchmarks.encoders_brought.weights`, in the file that MOBILENET_WEIGHTS names.

Shape legend: B rows, H height, W width, D embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

WEIGHTS = "MOBILENET_WEIGHTS"
STAGES = {13: 96, 16: 160, 17: 320, 18: 1280}
"""Blocks whose outputs are pooled, and their channels; 18 is what torchvision's classifier takes."""


class Stages(nn.Module):
    """Images that are normalised [B, 3, H, W] -> the pooled outputs of some blocks, side by side [B, D]."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        network = torchvision.models.mobilenet_v2()
        tensors = torch.load(os.environ[WEIGHTS], weights_only=True)
        network.load_state_dict({**network.state_dict(), **tensors})
        self.blocks = tuple(blocks)
        self.features = network.features[: max(blocks) + 1]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        pooled = []
        for block, layer in enumerate(self.features):
            x = layer(x)
            if block in self.blocks:
                pooled.append(x.mean(dim=(2, 3)))
        return torch.cat(pooled, dim=1)


def stages() -> nn.Module:
    """All of `STAGES`."""
    return Stages(tuple(STAGES))


def block17() -> nn.Module:
    """The last block before the wide convolution."""
    return Stages((17,))


def block18() -> nn.Module:
    """What torchvision's classifier takes: the teacher of the recipe distill_cifar10."""
    return Stages((18,))


class Map(Stages):
    """Images that are normalised [B, 3, H, W] -> a map of two blocks, side by side [B, 128, H / 16, W / 16]."""

    def __init__(self) -> None:
        super().__init__((6, 13))

    def forward(self, x: Tensor) -> Tensor:
        """Of strides 8 and 16; the finer one is averaged to the grid of the coarser."""
        found = []
        for block, layer in enumerate(self.features):
            x = layer(x)
            if block in self.blocks:
                found.append(x)
        finer, coarser = found
        return torch.cat([nn.functional.avg_pool2d(finer, 2, ceil_mode=True), coarser], dim=1)


def places() -> nn.Module:
    """For `--embedding mean --patches auto`."""
    return Map()
