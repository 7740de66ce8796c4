"""Random views of a batch of images, each row with its own draw, as batch operations on the batch's device.

Crop, flip, rotation, shear and elastic bending are one resampling of the image, so that together they cost what one
of them costs. That warp is ours: 512 grey images of 28 x 28 take 8 ms on one core, where kornia's crop, affine and
elastic transforms, one after another, take 64 ms, a third of the small network's step. Colours are kornia's.

Source of the set of augmentations: Chen et al., SimCLR, https://arxiv.org/abs/2002.05709, appendix A; elastic bending:
Simard, Steinkraus and Platt, Best Practices for Convolutional Neural Networks, ICDAR 2003.

Everything is drawn from torch's global generator, which the loop seeds, so a resumed run sees the same views.

Shape legend: B rows, C channels, H height, W width, G knots of the bending along a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.ranks import mine, num_of_all, num_ranks

ASPECT_LOG_RANGE = math.log(4 / 3)  # appendix A: aspect ratio from 3/4 to 4/3
JITTER_PROBABILITY = 0.8  # appendix A
OF_A_BATCH = ("order", "forward_input_shape")  # what kornia draws once for all rows
ELASTIC_KNOTS = 5  # a stroke of a digit spans two to three of them: it bends, it does not tear


@dataclass(frozen=True)
class ViewConfig:
    """What may differ between two views of an image. The defaults suit grey digits.

    Attributes:
        crop_area_min: smallest share of the image that a crop keeps, 0 to 1; 1 switches crops off.
        rotation_degrees: largest turn to either side.
        shear: largest sideways shift of the edge against the centre, in half images.
        elastic: standard deviation of the bending's knots, in half images.
        flip: mirror half of the views left to right.
        jitter: strength of the colour jitter, RGB only; 0.5 is common for CIFAR-10.
        grey_probability: share of the views that lose their colour, RGB only.
    """

    crop_area_min: float = 0.4
    rotation_degrees: float = 20.0
    shear: float = 0.3
    elastic: float = 0.05
    flip: bool = False
    jitter: float = 0.0
    grey_probability: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether any pixel of a view lies elsewhere."""
        return self.crop_area_min < 1 or self.flip or any((self.rotation_degrees, self.shear, self.elastic))

    def __post_init__(self) -> None:
        if not 0 < self.crop_area_min <= 1:
            raise ValueError(f"crop_area_min: got {self.crop_area_min}, expected above 0 and at most 1")
        if not 0 <= self.rotation_degrees <= 180:
            raise ValueError(f"rotation_degrees: got {self.rotation_degrees}, expected 0 to 180")
        for name in ("shear", "elastic", "grey_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.jitter <= 1.25:  # 0.8 * 1.25 = 1: beyond it brightness would turn negative
            raise ValueError(f"jitter: got {self.jitter}, expected 0 to 1.25")


STILL = ViewConfig(crop_area_min=1.0, rotation_degrees=0.0, shear=0.0, elastic=0.0)
"""Every view is the image itself."""


class Views:
    """Draws one view of each row: float [B, C, H, W], 0 to 1, in and out. Rows never see each other."""

    def __init__(self, config: ViewConfig, channels: int) -> None:
        """Makes the colour steps.

        Raises:
            ValueError: colours to change where there are none.
        """
        self.config = config
        self.colours: list[Any] = []
        if (config.jitter or config.grey_probability) and channels != 3:
            raise ValueError(
                f"jitter, grey_probability: got {config.jitter}, {config.grey_probability} for images of {channels}"
                " channel, expected 0, 0: only RGB images have colours"
            )
        if not (config.jitter or config.grey_probability):
            return
        from kornia import augmentation  # imported here: it takes seconds, and grey images do not need it

        if config.jitter:
            strong, weak = 0.8 * config.jitter, 0.2 * config.jitter  # appendix A: hue is changed less
            self.colours.append(augmentation.ColorJitter(strong, strong, strong, weak, p=JITTER_PROBABILITY))
        if config.grey_probability:
            self.colours.append(augmentation.RandomGrayscale(p=config.grey_probability))

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """One view of each row."""
        if self.config.moves:
            x_BCHW = warped(x_BCHW, self.config)
        for colour in self.colours:
            x_BCHW = colour(x_BCHW) if num_ranks() == 1 else colour(x_BCHW, params=_drawn(colour, x_BCHW))
        return x_BCHW


def _drawn(colour: Any, x_BCHW: Tensor) -> dict[str, Tensor]:
    """What one process would draw for the rows of all ranks, of which this rank takes its own."""
    rows = num_of_all(len(x_BCHW))
    drawn: dict[str, Tensor] = colour.forward_parameters(torch.Size((rows, *x_BCHW.shape[1:])))
    return {name: one if name in OF_A_BATCH else mine(one) for name, one in drawn.items()}


def warped(x_BCHW: Tensor, config: ViewConfig) -> Tensor:
    """Crops, turns, shears, bends and mirrors each row; where there was no image, its border goes on."""
    grid_BHW2 = F.affine_grid(_affine(x_BCHW, config), list(x_BCHW.shape), align_corners=False)
    if config.elastic:
        grid_BHW2 = grid_BHW2 + _bending(x_BCHW, config.elastic)
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _affine(x_BCHW: Tensor, config: ViewConfig) -> Tensor:
    """Where each view looks in an image of [-1, 1]^2: centre + R(angle) Shear diag(width, height), [B, 2, 3]."""
    rows = len(x_BCHW)
    draws_7B = mine(torch.rand(7, num_of_all(rows), device=x_BCHW.device), dim=1)
    area_B, aspect_B, angle_B, shear_B, x_B, y_B, flip_B = draws_7B
    area_B = config.crop_area_min + (1 - config.crop_area_min) * area_B
    root_aspect_B = (0.5 * ASPECT_LOG_RANGE * (2 * aspect_B - 1)).exp()
    if config.crop_area_min == 1:
        root_aspect_B = torch.ones_like(root_aspect_B)
    width_B = (area_B.sqrt() * root_aspect_B).clamp_max(1)
    height_B = (area_B.sqrt() / root_aspect_B).clamp_max(1)
    x_B, y_B = (1 - width_B) * (2 * x_B - 1), (1 - height_B) * (2 * y_B - 1)
    if config.flip:
        width_B = torch.where(flip_B < 0.5, -width_B, width_B)
    angle_B = math.radians(config.rotation_degrees) * (2 * angle_B - 1)
    shear_B = config.shear * (2 * shear_B - 1)
    _, _, rows_of_pixels, columns = x_BCHW.shape
    cos_B, sin_B, ratio = angle_B.cos(), angle_B.sin(), rows_of_pixels / columns  # a turn is one of pixels
    across_B, down_B = cos_B * shear_B - sin_B * ratio, sin_B / ratio * shear_B + cos_B
    upper_B3 = torch.stack([cos_B * width_B, across_B * height_B, x_B], dim=1)
    lower_B3 = torch.stack([sin_B / ratio * width_B, down_B * height_B, y_B], dim=1)
    return torch.stack([upper_B3, lower_B3], dim=1).to(x_BCHW.dtype)


def _bending(x_BCHW: Tensor, deviation: float) -> Tensor:
    """Smooth displacements [B, H, W, 2]: normal noise at G x G knots, interpolated between them."""
    rows, _, height, width = x_BCHW.shape
    drawn_B2GG = torch.randn(num_of_all(rows), 2, ELASTIC_KNOTS, ELASTIC_KNOTS, device=x_BCHW.device)
    knots_B2GG = deviation * mine(drawn_B2GG)
    smooth_B2HW = _spline(height, knots_B2GG) @ knots_B2GG @ _spline(width, knots_B2GG).T
    return smooth_B2HW.permute(0, 2, 3, 1).to(x_BCHW.dtype)


def _spline(size: int, like: Tensor) -> Tensor:
    """The weights of cubic interpolation, [size, G]: two small products cost a sixth of `F.interpolate`'s 15 ms."""
    knots_11GG = torch.eye(ELASTIC_KNOTS, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(knots_11GG, (size, ELASTIC_KNOTS), mode="bicubic", align_corners=True)[0, 0]
