"""CIE Lab colours, and their bins: what an image's colour is beside its lightness, as one of some hundred classes.

    linear = ((c + 0.055) / 1.055)^2.4, below 0.04045 c / 12.92          c: red, green or blue of sRGB, 0 to 1
    XYZ    = M linear / white
    L = 116 f(Y) - 16,   a = 500 (f(X) - f(Y)),   b = 200 (f(Y) - f(Z))
    f(t) = t^(1/3), below (6/29)^3 t / (3 (6/29)^2) + 4/29

Sources: IEC 61966-2-1 (sRGB, with the white of D65); CIE 15 (Lab). Bins: Zhang, Isola and Efros, Colorful image
colorization, https://arxiv.org/abs/1603.08511, section 2.

All of it is sums and powers of one pixel's numbers, no product of matrices, so that it has float32's precision where a
network has bfloat16's, and can be a part of an exported graph.

Shape legend: B rows, H height, W width, M pixels, Q bins, N near bins, K nearest bins,
S squares along a side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FROM_LINEAR = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""M: red, green and blue to X, Y and Z."""
WHITE = (0.95047, 1.0, 1.08883)
KNEE = 6 / 29
LARGE = 2**10
NEAR = 16
"""Bins among which the five nearest to a colour are, if these are those of the square that it lies in."""
STEPS_OF_RGB = 33
"""Along each side of the cube of colours whose bins are those that a picture can have."""


def _linear(x_B3HW: Tensor) -> Tensor:
    return torch.where(x_B3HW > 0.04045, ((x_B3HW + 0.055) / 1.055).pow(2.4), x_B3HW / 12.92)


def _curve(linear_B3HW: Tensor, row: int) -> Tensor:
    """F of X, Y or Z, [B, H, W]."""
    red, green, blue = FROM_LINEAR[row]
    t_BHW = red * linear_B3HW[:, 0] + green * linear_B3HW[:, 1] + blue * linear_B3HW[:, 2]
    t_BHW = t_BHW / WHITE[row]
    return torch.where(t_BHW > KNEE**3, t_BHW.clamp_min(KNEE**3).pow(1 / 3), t_BHW / (3 * KNEE**2) + 4 / 29)


def lightness(x_B3HW: Tensor) -> Tensor:
    """L of RGB images, 0 to 1, as 0 (black) to 1 (white), [B, 1, H, W]."""
    return (1.16 * _curve(_linear(x_B3HW), 1) - 0.16)[:, None]


def chroma(x_B3HW: Tensor) -> Tensor:
    """A (green to red) and b (blue to yellow) of RGB images, 0 to 1, about -110 to 110, [B, 2, H, W]; 0: grey."""
    linear_B3HW = _linear(x_B3HW)
    x_BHW, y_BHW, z_BHW = (_curve(linear_B3HW, row) for row in range(3))
    return torch.stack([500 * (x_BHW - y_BHW), 200 * (y_BHW - z_BHW)], dim=1)


def gamut_bins(size: float) -> Tensor:
    """The a and b of the middle of each bin that a colour of sRGB falls into, float32 [Q, 2]; bins are squares."""
    side = torch.linspace(0, 1, STEPS_OF_RGB, dtype=torch.float64)
    cube_13M1 = torch.cartesian_prod(side, side, side).T[None, :, :, None]
    a_M, b_M = (chroma(cube_13M1)[0, :, :, 0] / size).round().long()
    numbers = (a_M * LARGE + b_M).unique()  # in one number: of pairs it takes ten times as long
    b_Q = (numbers + LARGE // 2) % LARGE - LARGE // 2
    return torch.stack([(numbers - b_Q) // LARGE, b_Q], dim=1).float() * size


def squared_distances(ab_M2: Tensor, bins_Q2: Tensor) -> Tensor:
    """Of each colour to each bin, [M, Q], or to bins of its own, [M, N, 2]."""
    return (ab_M2[:, None] - bins_Q2).square().sum(dim=2)


class ColourBins(nn.Module):
    """The bins of a size, and which are near: for every square of the plane of colours the sixteen nearest are known.

    Attributes:
        middle_Q2: see `gamut_bins`.
    """

    middle_Q2: Tensor
    low_2: Tensor
    near_SSN: Tensor

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("middle_Q2", gamut_bins(size), persistent=False)
        self.register_buffer("low_2", self.middle_Q2.amin(dim=0), persistent=False)
        sides = ((self.middle_Q2.amax(dim=0) - self.low_2) / size).round().long() + 1
        squares_M2 = torch.cartesian_prod(*(torch.arange(int(side)) for side in sides)) * size + self.low_2
        near_MN = squared_distances(squares_M2, self.middle_Q2).topk(min(NEAR, len(self)), largest=False).indices
        self.register_buffer("near_SSN", near_MN.view(*sides.tolist(), -1), persistent=False)

    def __len__(self) -> int:
        return len(self.middle_Q2)

    def nearest(self, ab_M2: Tensor, num: int, deviation: float) -> tuple[Tensor, Tensor]:
        """The nearest bins of each colour, the nearest first, int64 [M, K], and their shares of it, which sum to 1.

        Shares are those of a Gaussian around the colour: section 2.1 of the paper.
        """
        most_2 = torch.tensor(self.near_SSN.shape[:2], device=ab_M2.device) - 1
        square_M2 = ((ab_M2 - self.low_2) / self.size).round().long().clamp_min(0).minimum(most_2)
        near_MN = self.near_SSN[square_M2[:, 0], square_M2[:, 1]]
        squared_MN = squared_distances(ab_M2, self.middle_Q2[near_MN])
        squared_MK, places_MK = squared_MN.topk(min(num, len(self)), dim=1, largest=False)
        return near_MN.gather(1, places_MK), (-squared_MK / (2 * deviation**2)).softmax(dim=1)


def smoothed(prior_Q: Tensor, bins_Q2: Tensor, deviation: float) -> Tensor:
    """A distribution over bins after a Gaussian around each has spread it, [Q]; none of it is lost at the border."""
    kernel_QQ = (-squared_distances(bins_Q2, bins_Q2) / (2 * deviation**2)).softmax(dim=1)  # row: where a bin goes
    return (prior_Q[:, None] * kernel_QQ).sum(dim=0)


def rebalancing(smooth_Q: Tensor, uniform: float) -> Tensor:
    """The weight of each bin, [Q], of which the mean over the distribution is 1: rare colours count for more.

    w = 1 / ((1 - uniform) p + uniform / Q), divided by sum p w. Source: eq. 4 of the paper.
    """
    weights_Q = 1 / ((1 - uniform) * smooth_Q + uniform / len(smooth_Q))
    return weights_Q / (smooth_Q * weights_Q).sum()
