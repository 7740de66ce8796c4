from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from training.augmentations import STILL, ViewConfig, Views, warped


def views_of(x: Tensor, config: ViewConfig, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return Views(config, x.shape[1])(x)


def picture(channels: int = 3, size: int = 24) -> Tensor:
    """One smooth image that no symmetry maps to itself."""
    across, down = torch.linspace(0, 1, size), torch.linspace(0, 1, size)[:, None]
    planes = [0.1 + 0.6 * across * down, 0.2 + 0.7 * across.expand(size, size) ** 2, 0.9 - 0.5 * down * (1 - across)]
    return torch.stack(planes[:channels])[None]


SWITCHED_ON: dict[str, Any] = {
    "crop_area_min": 0.3,
    "rotation_degrees": 30.0,
    "shear": 0.4,
    "elastic": 0.1,
    "flip": True,
    "jitter": 0.5,
    "grey_probability": 0.5,
}


def test_with_everything_off_a_view_is_the_image() -> None:
    x = picture().repeat(4, 1, 1, 1)
    assert torch.equal(views_of(x, STILL), x)


@pytest.mark.parametrize("name", SWITCHED_ON)
def test_each_option_changes_views_and_each_row_has_its_own_draw(name: str) -> None:
    x = picture().repeat(16, 1, 1, 1)
    views = views_of(x, replace(STILL, **{name: SWITCHED_ON[name]}))
    assert views.shape == x.shape
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6
    assert (views - x).abs().max() > 0.05
    different = {tuple(view.mul(255).round().flatten().tolist()) for view in views}
    two = name in ("flip", "grey_probability")
    assert len(different) == 2 if two else len(different) >= 12  # a fifth of the rows keeps its colours


def test_views_are_those_of_the_seed_and_no_row_depends_on_another() -> None:
    everything = ViewConfig(**SWITCHED_ON)
    x = torch.rand(6, 3, 12, 12)
    assert torch.equal(views_of(x, everything), views_of(x, everything))
    assert not torch.equal(views_of(x, everything), views_of(x, everything, seed=1))
    other = torch.cat([x[:5], torch.rand(1, 3, 12, 12)])
    torch.testing.assert_close(views_of(x, everything)[:5], views_of(other, everything)[:5])


def mass(x: Tensor) -> Tensor:
    return x.sum(dim=(1, 2, 3))


def dot(at: tuple[int, int], size: int = 33) -> Tensor:
    x = torch.zeros(64, 1, size, size)
    x[:, :, at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] = 1
    return x


def centre(x: Tensor) -> Tensor:
    """Row and column of the middle of the light, in half images from the centre, [B, 2]."""
    place = torch.linspace(-1, 1, x.shape[-1])
    total = mass(x)
    return torch.stack([(x.sum(dim=(1, 3)) * place).sum(1) / total, (x.sum(dim=(1, 2)) * place).sum(1) / total], dim=1)


def test_a_turn_keeps_the_distance_from_the_centre_and_reaches_its_limit() -> None:
    torch.manual_seed(0)
    middle = centre(warped(dot((16, 26)), replace(STILL, rotation_degrees=90)))
    torch.testing.assert_close(middle.norm(dim=1), torch.full((64,), 10 / 16), atol=0.01, rtol=0)
    angle = torch.atan2(middle[:, 0], middle[:, 1]).rad2deg()
    assert 80 < angle.abs().max() <= 90.5
    assert angle.min() < 0 < angle.max()


@pytest.mark.parametrize("size", [(33, 65), (65, 33)])
def test_a_turn_of_an_image_that_is_not_square_is_one_of_its_pixels(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.zeros(64, 1, *size)
    middle = size[0] // 2, size[1] // 2
    x[:, :, middle[0] - 2 : middle[0] + 3, middle[1] + 6 : middle[1] + 11] = 1
    turned = warped(x, replace(STILL, rotation_degrees=90))
    rows, columns = torch.arange(size[0]) - middle[0], torch.arange(size[1]) - middle[1]
    down = (turned.sum(dim=(1, 3)) * rows).sum(1) / mass(turned)
    across = (turned.sum(dim=(1, 2)) * columns).sum(1) / mass(turned)
    torch.testing.assert_close((down**2 + across**2).sqrt(), torch.full((64,), 8.0), atol=0.1, rtol=0)
    torch.testing.assert_close(mass(turned), torch.full((64,), 25.0), atol=1.5, rtol=0)
    assert down.max() > 7


def test_a_crop_magnifies_up_to_its_share_of_the_area() -> None:
    torch.manual_seed(0)
    x = torch.ones(256, 1, 32, 32)
    torch.testing.assert_close(warped(x, replace(STILL, crop_area_min=0.25)), x)  # never looks outside
    grown = mass(warped(dot((16, 16)).repeat(4, 1, 1, 1), replace(STILL, crop_area_min=0.25)))
    assert 25 * 3 < grown.max() < 25 * 4.6  # at most 1 / 0.25, and pixels of the border


def test_shear_shifts_the_edge_and_not_the_centre() -> None:
    torch.manual_seed(0)
    off = replace(STILL, shear=0.5)
    torch.testing.assert_close(centre(warped(dot((16, 16)), off)), torch.zeros(64, 2), atol=0.01, rtol=0)
    upper = centre(warped(dot((6, 16)), off))
    torch.testing.assert_close(upper[:, 0], torch.full((64,), -10 / 16), atol=0.02, rtol=0)
    assert 0.25 < upper[:, 1].abs().max() <= 0.5 * 10 / 16 + 0.02


def test_a_flip_mirrors_half_of_the_views() -> None:
    x = picture(size=8).repeat(200, 1, 1, 1)
    views = views_of(x, replace(STILL, flip=True))
    mirrored = torch.tensor([torch.allclose(view, x[0].flip(-1), atol=1e-5) for view in views])
    same = torch.tensor([torch.allclose(view, x[0], atol=1e-5) for view in views])
    assert torch.equal(mirrored, ~same)
    assert 70 < mirrored.sum() < 130


def test_bending_moves_points_by_its_deviation_and_neighbours_together() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32).expand(64, 1, 32, 32)  # each pixel says where it is
    moved = (warped(ramp, replace(STILL, elastic=0.05)) - ramp)[:, 0, 4:-4, 4:-4]
    assert 0.02 < moved.std() < 0.08
    assert (moved[:, :, 1:] - moved[:, :, :-1]).abs().max() < moved.abs().max() / 2


def test_grey_views_have_one_value_in_all_channels() -> None:
    views = views_of(picture().repeat(200, 1, 1, 1), replace(STILL, grey_probability=0.3))
    grey = (views.amax(1) - views.amin(1)).amax(dim=(1, 2)) < 1e-5
    assert 35 < grey.sum() < 85


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop_area_min": 0.0}, "crop_area_min: got 0.0"),
        ({"rotation_degrees": 200.0}, "rotation_degrees: got 200.0, expected 0 to 180"),
        ({"shear": -0.1}, "shear: got -0.1"),
        ({"jitter": 2.0}, "jitter: got 2.0"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewConfig(**config)


def test_colours_of_grey_images_are_rejected() -> None:
    with pytest.raises(ValueError, match="jitter, grey_probability: got 0.5, 0.0 for images of 1 channel"):
        Views(replace(STILL, jitter=0.5), 1)
