"""Networks from an image to one vector, by name: one small net of ours for a CPU, the rest from timm.

Shape legend: B rows, C channels, H height, W width, D features.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from training.networks.conv import ImageSize, height_and_width
from training.networks.places import maps_of, patches_of

SMALL = "small"
SMALL_WIDTH = 16
LAST_MAP = 4
RESNET = re.compile(r"resnet\d+")
RESNET_WIDTH = 64
LARGEST_FINE_STEM = 64
"""Pixels up to which a ResNet starts with a 3 x 3 convolution of stride 1: the stem made for 224 pixels, two halvings
in a row, would leave an image of 32 with one pixel at the end. Source: the SimCLR paper, appendix B.9."""


class Residual(nn.Module):
    """Two convolutions that learn what to add to their input. Source: He et al., https://arxiv.org/abs/1512.03385."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *_convolution(width, width, 3, 1), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape out."""
        return torch.relu(x_BCHW + self.change(x_BCHW))


class SmallConvNet(nn.Sequential):
    """float [B, C, H, W] -> features [B, D], 0 or greater, for 8 to 64 pixels on a CPU.

    The stem halves the image at once, since most of the time goes where maps are large. Then come stages of a halving
    and a residual block, each twice as wide as the one before, until maps have 4 x 4 pixels. They are flattened, not
    averaged: with digits it counts where a stroke is.
    """

    def __init__(self, channels: int, image_size: ImageSize, width: int) -> None:
        layers = _convolution(channels, width, 5, 2)
        height, across = ((side + 1) // 2 for side in height_and_width(image_size))
        for _ in range(max(1, math.ceil(math.log2(math.sqrt(height * across) / LAST_MAP)))):
            layers += [*_convolution(width, 2 * width, 3, 2), Residual(2 * width)]
            width *= 2
        super().__init__(*layers, nn.Flatten())


def _convolution(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def build_backbone(name: str, channels: int, image_size: ImageSize, width: int | None) -> tuple[nn.Module, int]:
    """A network float [B, C, H, W] -> [B, D] with random weights, and D.

    Args:
        name: `small`, or a timm model.
        channels: C.
        image_size: H and W, or the side of a square.
        width: channels after the stem of `small` and of ResNets; None for their own (16, 64).

    Raises:
        ValueError: no such model, a width for a model that has none, or images that are too small for it.
    """
    if name == SMALL:
        network: nn.Module = SmallConvNet(channels, image_size, width or SMALL_WIDTH)
    else:
        network = _timm(name, channels, image_size, width)
    try:
        with torch.no_grad():
            features_BD: Tensor = network.eval()(torch.zeros(1, channels, *height_and_width(image_size)))
    except (AssertionError, RuntimeError) as error:
        size = "{} x {}".format(*height_and_width(image_size))
        raise ValueError(f"backbone: {name} does not take images of {size}: {error}") from error
    return network.train(), features_BD.shape[1]


def with_patches(network: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features [B, D] of a backbone and its patches [B, h, w, D], from one pass; None if it keeps no map of places."""
    if isinstance(network, nn.Sequential):
        features_BD, maps = maps_of(network, x_BCHW)
        return features_BD, patches_of(maps)
    if not hasattr(network, "layer1"):
        features_BD = network(x_BCHW)
        return features_BD, None
    resnet: Any = network
    last_BCHW, stages = resnet.forward_intermediates(x_BCHW)
    by_size = {tuple(stage.shape[2:]): stage for stage in stages}  # of one size the last
    features_BD = resnet.forward_head(last_BCHW)
    return features_BD, patches_of(list(by_size.values()))


def _timm(name: str, channels: int, image_size: ImageSize, width: int | None) -> nn.Module:
    import timm  # imported here: it takes seconds, and `small` does not need it

    if not timm.is_model(name):
        raise ValueError(f"backbone: got {name!r}, expected {SMALL} or a model of timm, such as resnet18")
    if not RESNET.fullmatch(name):
        if width is not None:
            raise ValueError(f"width: got {width} for {name}, expected none: it is an option of small and of ResNets")
        network: nn.Module = timm.create_model(name, in_chans=channels, num_classes=0)
        return network
    width = width or RESNET_WIDTH
    # A deep stem is the one whose width timm lets us choose (twice stem_width). Its convolutions are replaced by one.
    stages = tuple(width * 2**stage for stage in range(4))
    resnet = timm.create_model(name, num_classes=0, channels=stages, stem_type="deep", stem_width=width // 2)
    if max(height_and_width(image_size)) <= LARGEST_FINE_STEM:
        resnet.conv1, resnet.maxpool = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.Identity()
    else:
        resnet.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's others
    made: nn.Module = resnet
    return made
