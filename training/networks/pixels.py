"""What a network's outputs at a place say of the pixels there: how likely they are, and a draw of them.

    Blocks            pixels 0 and 1, of grey images: one of the 2^(b b) patterns that a block of b x b pixels can have
    LogisticMixture   the 256 levels, of grey or colour:   log p(x) = log sum_k pi_k prod_c P_k(x_c | x_<c)

A block is a place of a grid that is b times smaller, and has a softmax over all of its patterns. So p(x) is exact with
blocks as with pixels, b = 1: the same chain rule, b b factors at a time, at a quarter of the cost for b = 2.

P_k of a level is the mass of a logistic distribution between the middles to the next levels; the lowest and the highest
level have what lies beyond them, too. In colour the mean of a channel moves with the channels before it, by factors
that are outputs as well, so that the network itself need not look at one channel to predict another. With a and b the
two ends over the scale the mass is

    s(a) - s(b) = s(a) s(-b) (1 - e^(b - a))

of which each factor has a logarithm that is exact for any a and b. PixelCNN++ tells apart four cases in its place.

Sources: Salimans et al., PixelCNN++, https://arxiv.org/abs/1701.05517, equations 1 to 3. Blocks are ours.

Shape legend: B rows, C channels, H height, W width, h and w of the grid, G numbers of a place of it, O outputs of a
place, K parts of the mixture or patterns of a block.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import ImageShape
from training.ranks import among_all, mine

Binarise = Literal["none", "dynamic", "threshold"]
LEVELS = 255
SMALLEST_LOG_SCALE = -7.0  # of PixelCNN++'s code: a tenth of the distance of two levels
LARGEST_BLOCK = 3
"""Its 512 patterns are more than the features that predict them."""


class Pixels(Protocol):
    """A distribution of what is at a place of a grid.

    Attributes:
        numbers: at a place, G.
        outputs: of a place that the distribution is made from, O.
    """

    numbers: int
    outputs: int

    def grid(self, x_BCHW: Tensor, /) -> Tensor:
        """Pixels, 0 to 1, as the network takes them, [B, G, h, w]."""
        ...

    def image(self, grid_BGhw: Tensor, /) -> Tensor:
        """The pixels of a grid, [B, C, H, W], 0 to 1."""
        ...

    def nll(self, outputs_BOhw: Tensor, grid_BGhw: Tensor, /) -> Tensor:
        """-log p of each row, [B], nats."""
        ...

    def draw(self, outputs_BO: Tensor, /) -> Tensor:
        """What is at a place, of each row, [B, G]."""
        ...


def pixels_of(shape: ImageShape, binarise: Binarise, block: int, num_parts: int) -> Pixels:
    """The distribution for such images.

    Raises:
        ValueError: colour that is to be binarised, blocks of levels, or blocks that do not cover the image.
    """
    if binarise == "none":
        if block != 1:
            raise ValueError(f"block: got {block}, expected 1: only binarised pixels are predicted by blocks")
        return LogisticMixture(shape.channels, num_parts)
    if shape.channels != 1:
        raise ValueError(
            f"binarise: got {binarise} for {shape.channels} channels, expected none: only grey is binarised"
        )
    if any(side % block for side in shape.size):
        height, width = shape.size
        raise ValueError(f"block: got {block} for images of {height} x {width}, expected what divides both")
    return Blocks(block)


def binarised(x_BCHW: Tensor, how: Binarise) -> Tensor:
    """Pixels 0 and 1, drawn anew each time (`dynamic`) or cut at 0.5; or as they are.

    Nats are of one of these: a threshold makes smooth edges, which take far fewer.
    """
    if how == "dynamic":
        return mine(torch.bernoulli(among_all(x_BCHW)))
    return (x_BCHW > 0.5).to(x_BCHW.dtype) if how == "threshold" else x_BCHW


class Blocks:
    """See the file; b is the side of a block."""

    def __init__(self, side: int) -> None:
        if not 1 <= side <= LARGEST_BLOCK:
            raise ValueError(f"block: got {side}, expected 1 to {LARGEST_BLOCK}")
        self.side, self.numbers = side, side * side
        self.outputs = 2**self.numbers

    def grid(self, x_B1HW: Tensor) -> Tensor:
        """See `Pixels`."""
        return F.pixel_unshuffle(x_B1HW, self.side)

    def image(self, grid_BGhw: Tensor) -> Tensor:
        """See `Pixels`."""
        return F.pixel_shuffle(grid_BGhw, self.side)

    def nll(self, outputs_BKhw: Tensor, grid_BGhw: Tensor) -> Tensor:
        """See `Pixels`."""
        worth_G11 = 2 ** torch.arange(self.numbers, device=grid_BGhw.device)[:, None, None]
        pattern_B1hw = (grid_BGhw.long() * worth_G11).sum(dim=1, keepdim=True)
        # -sum over places of log softmax(outputs)[pattern]
        return -outputs_BKhw.log_softmax(dim=1).gather(1, pattern_B1hw).flatten(1).sum(dim=1)

    def draw(self, outputs_BK: Tensor) -> Tensor:
        """See `Pixels`."""
        pattern_B1 = torch.multinomial(outputs_BK.softmax(dim=1), 1)
        shifts_G = torch.arange(self.numbers, device=outputs_BK.device)
        return ((pattern_B1 >> shifts_G) & 1).to(outputs_BK.dtype)


class LogisticMixture:
    """See the file; for each part a weight, C means, C log scales, and a factor for each pair of channels."""

    def __init__(self, channels: int, num_parts: int) -> None:
        if num_parts < 1:
            raise ValueError(f"num_parts: got {num_parts}, expected 1 or more")
        self.channels = self.numbers = channels
        self.num_parts = num_parts
        self.pairs = [(one, before) for one in range(channels) for before in range(one)]
        self.outputs = num_parts * (1 + 2 * channels + len(self.pairs))

    def grid(self, x_BCHW: Tensor) -> Tensor:
        """See `Pixels`: -1 to 1."""
        return 2 * x_BCHW - 1

    def image(self, grid_BCHW: Tensor) -> Tensor:
        """See `Pixels`."""
        return (grid_BCHW + 1) / 2

    def parts(self, outputs_BO: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, K, ...], means and log scales [B, K, C, ...], factors [B, K, pairs, ...] from [B, O, ...]."""
        # -1 for the rows: a graph that is exported takes any number of them
        by_part = outputs_BO.reshape(-1, self.num_parts, self.outputs // self.num_parts, *outputs_BO.shape[2:])
        num = self.channels
        means, log_scales = by_part[:, :, 1 : 1 + num], by_part[:, :, 1 + num : 1 + 2 * num]
        factors = by_part[:, :, 1 + 2 * num :]
        return by_part[:, :, 0], means, log_scales.clamp_min(SMALLEST_LOG_SCALE), factors.tanh()

    def nll(self, outputs_BOHW: Tensor, grid_BCHW: Tensor) -> Tensor:
        """See `Pixels`."""
        logits, means, log_scales, factors = self.parts(outputs_BOHW)
        y = grid_BCHW[:, None]  # [B, 1, C, H, W]
        moved = [means[:, :, channel] for channel in range(self.channels)]
        for pair, (channel, before) in enumerate(self.pairs):
            moved[channel] = moved[channel] + factors[:, :, pair] * y[:, :, before]
        distance, inverse = y - torch.stack(moved, dim=2), (-log_scales).exp()
        a, b = (distance + 1 / LEVELS) * inverse, (distance - 1 / LEVELS) * inverse
        not_lowest, not_highest = (y > -1).to(y.dtype), (y < 1).to(y.dtype)
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
        return ((y_BC.clamp(-1, 1) + 1) / 2 * LEVELS).round() / LEVELS * 2 - 1


def bits_per_dim(nats: Tensor, shape_CHW: torch.Size) -> Tensor:
    """Nats of a whole image as bits of each of its numbers."""
    return nats / (math.log(2) * math.prod(shape_CHW))
