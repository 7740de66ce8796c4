from __future__ import annotations

import pytest
import torch

from training.networks.backbones import build_backbone, with_patches
from training.networks.places import LARGEST_DIM, patches_of


@pytest.mark.parametrize(
    ("name", "width", "channels", "size", "shape"),
    [("small", None, 3, 96, (12, 12, 96)), ("small", None, 1, 28, (7, 7, 48)), ("resnet18", 16, 3, 32, (8, 8, 96))],
)
def test_patches_come_beside_the_same_features(
    name: str, width: int | None, channels: int, size: int, shape: tuple[int, ...]
) -> None:
    network, _ = build_backbone(name, channels, size, width)
    x = torch.rand(2, channels, size, size)
    with torch.no_grad():
        features, patches = with_patches(network.eval(), x)
        torch.testing.assert_close(features, network(x))
    assert patches is not None
    assert patches.shape == (2, *shape)


def test_both_maps_are_averaged_where_they_lie() -> None:
    fine, coarse = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 8, 8)
    fine[0, 0, 6, 10], coarse[0, 0, 3, 5] = 9, 9
    patches = patches_of([fine, coarse])
    assert patches is not None
    assert patches.shape == (1, 8, 8, 2)
    assert patches[0, 3, 5].tolist() == [1, 1]
    assert patches[0, 3, 7].tolist() == [0, 0]


def test_channels_and_places_are_bounded() -> None:
    assert patches_of([torch.zeros(1, 3, 2, 2)]) is None
    assert patches_of([torch.zeros(1, 3, 60, 60)]) is None
    wide = patches_of([torch.zeros(1, 60, 60, 60), torch.zeros(1, 300, 14, 14), torch.zeros(1, 512, 7, 7)])
    assert wide is not None
    assert wide.shape == (1, 7, 7, 100 + LARGEST_DIM)
