from __future__ import annotations

import pytest
import torch
from torch import nn

from training.networks.backbones import build_backbone


@pytest.mark.parametrize(
    ("name", "width", "features", "image_size", "channels"),
    [
        ("small", None, 64 * 4 * 4, 28, 1),
        ("small", 8, 32 * 4 * 4, 32, 3),
        ("small", 4, 8 * 2 * 2, 8, 1),
        ("small", 2, 16 * 4 * 4, 64, 3),
        ("resnet18", 16, 128, 32, 3),
        ("resnet18", None, 512, 32, 1),
        ("resnet18", 8, 64, 96, 3),
        ("mobilenetv3_small_050", None, 1024, 32, 3),
    ],
)
def test_a_name_gives_a_network_and_its_features(
    name: str, width: int | None, features: int, image_size: int, channels: int
) -> None:
    network, embedding_dim = build_backbone(name, channels, image_size, width)
    assert network.training
    assert embedding_dim == features
    assert network(torch.rand(2, channels, image_size, image_size)).shape == (2, features)


def test_a_resnet_for_small_images_halves_three_times_and_for_large_ones_five_times() -> None:
    sizes: list[int] = []

    def last_map(image_size: int) -> int:
        network, _ = build_backbone("resnet18", 3, image_size, 8)
        network.layer4.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-1]))  # type: ignore[union-attr]
        network.eval()(torch.rand(1, 3, image_size, image_size))
        return sizes[-1]

    assert last_map(32) == 4
    assert last_map(64) == 8
    assert last_map(128) == 4


def test_width_16_is_the_narrow_resnet_of_a_cpu() -> None:
    network, _ = build_backbone("resnet18", 3, 32, 16)
    num_weights = sum(parameter.numel() for parameter in network.parameters())
    assert 690_000 < num_weights < 710_000  # a sixteenth of 11.2 million
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 20  # as every ResNet-18


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet19", None, "backbone: got 'resnet19', expected small or a model of timm"),
        ("mobilenetv3_small_050", 16, "width: got 16 for mobilenetv3_small_050, expected none"),
        ("vit_tiny_patch16_224", None, "vit_tiny_patch16_224 does not take images of 32 x 32"),
    ],
)
def test_a_network_that_cannot_be_made_is_rejected(name: str, width: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, 3, 32, width)
