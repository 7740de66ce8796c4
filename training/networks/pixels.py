"""What a network's outputs at a place say of the pixel there: how likely it is, and a draw of it.

    Bernoulli         pixels 0 and 1, of grey images:      log p(x) = x log s(l) + (1 - x) log(1 - s(l))
    LogisticMixture   the 256 levels, of grey or colour:   log p(x) = log sum_k pi_k prod_c P_k(x_c | x_<c)

P_k of a level is the mass of a logistic distribution between the middles to the next levels; the lowest and the highest
level have what lies beyond them, too. In colour the mean of a channel moves with the channels before it, by factors
that are outputs as well, so that the network itself need not look at one channel to predict another. With a and b the
two ends over the scale the mass is

    s(a) - s(b) = s(a) s(-b) (1 - e^(b - a))

of which each factor has a logarithm that is exact for any a and b. PixelCNN++ tells apart four cases in its place.

Sources: Salimans et al., PixelCNN++, https://arxiv.org/abs/1701.05517, equations 1 to 3.

Shape legend: B rows, C channels, H height, W width, O outputs of a place, K parts of the mixture.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from training.ranks import among_all, mine

Binarise = Literal["none", "dynamic", "threshold"]
LEVELS = 255
SMALLEST_LOG_SCALE = -7.0  # of PixelCNN++'s code: a tenth of the distance of two levels


class Pixels(Protocol):
    """A distribution of the pixel at a place.

    Attributes:
        outputs: of a place that it is made from, O.
    """

    outputs: int

    def seen(self, x_BCHW: Tensor, /) -> Tensor:
        """Pixels, 0 to 1, as the network takes them."""
        ...

    def nll(self, outputs_BOHW: Tensor, x_BCHW: Tensor, /) -> Tensor:
        """-log p of each row's pixels, 0 to 1: [B], nats."""
        ...

    def draw(self, outputs_BO: Tensor, /) -> Tensor:
        """A pixel of each row, [B, C], 0 to 1."""
        ...


def pixels_of(channels: int, binarise: Binarise, num_parts: int) -> Pixels:
    """The distribution for such images.

    Raises:
        ValueError: colour that is to be binarised.
    """
    if binarise == "none":
        return LogisticMixture(channels, num_parts)
    if channels != 1:
        raise ValueError(f"binarise: got {binarise} for images of {channels} channels, expected none: only grey is")
    return Bernoulli()


def binarised(x_BCHW: Tensor, how: Binarise) -> Tensor:
    """Pixels 0 and 1, drawn anew each time (`dynamic`) or cut at 0.5; or as they are.

    Nats are of one of these: a threshold makes smooth edges, which take far fewer.
    """
    if how == "dynamic":
        return mine(torch.bernoulli(among_all(x_BCHW)))
    return (x_BCHW > 0.5).to(x_BCHW.dtype) if how == "threshold" else x_BCHW


class Bernoulli:
    """See the file."""

    outputs = 1

    def seen(self, x_B1HW: Tensor) -> Tensor:
        """See `Pixels`."""
        return x_B1HW

    def nll(self, outputs_B1HW: Tensor, x_B1HW: Tensor) -> Tensor:
        """See `Pixels`."""
        # -[x log s(l) + (1 - x) log(1 - s(l))] = softplus(l) - l x: finite for any logit
        return (F.softplus(outputs_B1HW) - outputs_B1HW * x_B1HW).flatten(1).sum(dim=1)

    def draw(self, outputs_B1: Tensor) -> Tensor:
        """See `Pixels`."""
        return torch.bernoulli(outputs_B1.sigmoid())


class LogisticMixture:
    """See the file; for each part a weight, C means, C log scales, and a factor for each pair of channels."""

    def __init__(self, channels: int, num_parts: int) -> None:
        if num_parts < 1:
            raise ValueError(f"num_parts: got {num_parts}, expected 1 or more")
        self.channels, self.num_parts = channels, num_parts
        self.pairs = [(one, before) for one in range(channels) for before in range(one)]
        self.outputs = num_parts * (1 + 2 * channels + len(self.pairs))

    def seen(self, x_BCHW: Tensor) -> Tensor:
        """See `Pixels`: -1 to 1."""
        return 2 * x_BCHW - 1

    def parts(self, outputs_BO: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, K, ...], means and log scales [B, K, C, ...], factors [B, K, pairs, ...] from [B, O, ...]."""
        by_part = outputs_BO.reshape(len(outputs_BO), self.num_parts, -1, *outputs_BO.shape[2:])
        num = self.channels
        means, log_scales = by_part[:, :, 1 : 1 + num], by_part[:, :, 1 + num : 1 + 2 * num]
        factors = by_part[:, :, 1 + 2 * num :]
        return by_part[:, :, 0], means, log_scales.clamp_min(SMALLEST_LOG_SCALE), factors.tanh()

    def nll(self, outputs_BOHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """See `Pixels`."""
        logits, means, log_scales, factors = self.parts(outputs_BOHW)
        y = self.seen(x_BCHW)[:, None]  # [B, 1, C, H, W]
        moved = [means[:, :, channel] for channel in range(self.channels)]
        for pair, (channel, before) in enumerate(self.pairs):
            moved[channel] = moved[channel] + factors[:, :, pair] * y[:, :, before]
        distance, inverse = y - torch.stack(moved, dim=2), (-log_scales).exp()
        a, b = (distance + 1 / LEVELS) * inverse, (distance - 1 / LEVELS) * inverse
        not_lowest, not_highest = (x_BCHW > 0)[:, None].to(y.dtype), (x_BCHW < 1)[:, None].to(y.dtype)
        # log s(a) + log s(-b) + log(1 - e^(b - a)); below the lowest level s(-b) is 1, above the highest s(a)
        between = (1 - (-2 / LEVELS * inverse).exp()).log()
        log_p = not_lowest * not_highest * between - not_highest * F.softplus(-a) - not_lowest * F.softplus(b)
        log_mixed_BHW = torch.logsumexp(logits.log_softmax(dim=1) + log_p.sum(dim=2), dim=1)
        return -log_mixed_BHW.flatten(1).sum(dim=1)

    def draw(self, outputs_BO: Tensor) -> Tensor:
        """See `Pixels`: a part, and its channels one after another."""
        logits, means, log_scales, factors = self.parts(outputs_BO)
        part_B = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
        rows = torch.arange(len(part_B), device=part_B.device)
        means_BC, scales_BC, factors_BP = means[rows, part_B], log_scales[rows, part_B].exp(), factors[rows, part_B]
        uniform_BC = torch.rand_like(means_BC).clamp(1e-5, 1 - 1e-5)
        y_BC = means_BC + scales_BC * (uniform_BC.log() - (1 - uniform_BC).log())
        for pair, (channel, before) in enumerate(self.pairs):  # a channel is whole when its last pair was added
            y_BC[:, channel] += factors_BP[:, pair] * y_BC[:, before].clamp(-1, 1)
        return ((y_BC.clamp(-1, 1) + 1) / 2 * LEVELS).round() / LEVELS


def bits_per_dim(nats: Tensor, shape_CHW: torch.Size) -> Tensor:
    """Nats of a whole image as bits of each of its numbers."""
    return nats / (math.log(2) * math.prod(shape_CHW))
