from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from torch.distributions import Categorical

from training.data import ImageShape
from training.networks.pixels import LEVELS, Blocks, LogisticMixture, binarised, bits_per_dim, pixels_of


def outputs_and_image(
    channels: int, num_rows: int = 2, side: int = 3
) -> tuple[LogisticMixture, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mixture = LogisticMixture(channels, 3)
    outputs = torch.randn(num_rows, mixture.outputs, side, side, dtype=torch.double) / 2
    x = torch.randint(0, 256, (num_rows, channels, side, side)).double() / LEVELS
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, 1  # the levels that have what lies beyond them
    return mixture, outputs, x


def brute_force(mixture: LogisticMixture, outputs: torch.Tensor, x: torch.Tensor) -> float:
    """Equations 1 to 3 of one pixel, with scipy's logistic distribution."""
    channels, total = mixture.channels, 0.0
    numbers = outputs.view(mixture.num_parts, -1).numpy()
    weights = np.exp(numbers[:, 0]) / np.exp(numbers[:, 0]).sum()
    for weight, part in zip(weights, numbers, strict=True):
        means, log_scales, factors = np.split(part[1:], [channels, 2 * channels])
        p, y, factor = weight, 2 * x.numpy() - 1, iter(np.tanh(factors))
        for channel in range(channels):
            mean = means[channel] + sum(next(factor) * y[before] for before in range(channel))
            cdf = logistic(mean, np.exp(max(log_scales[channel], -7.0))).cdf
            high = 1.0 if x[channel] == 1 else cdf(y[channel] + 1 / LEVELS)
            low = 0.0 if x[channel] == 0 else cdf(y[channel] - 1 / LEVELS)
            p *= high - low
        total += p
    return -math.log(total)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mixture_is_that_of_the_equations(channels: int) -> None:
    mixture, outputs, x = outputs_and_image(channels)
    expected = [
        sum(
            brute_force(mixture, outputs[row, :, i, j], x[row, :, i, j])
            for i, j in itertools.product(range(3), repeat=2)
        )
        for row in range(2)
    ]
    assert mixture.nll(outputs, mixture.grid(x)).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_probabilities_of_all_colours_sum_to_one() -> None:
    """Of two channels: all 65,536 pairs of levels."""
    torch.manual_seed(0)
    mixture = LogisticMixture(2, 2)
    levels = torch.cartesian_prod(torch.arange(256), torch.arange(256)).double() / LEVELS
    outputs = torch.randn(1, mixture.outputs, 1, 1).double().expand(len(levels), -1, 1, 1)
    assert (-mixture.nll(outputs, mixture.grid(levels[:, :, None, None]))).exp().sum().item() == pytest.approx(
        1, abs=1e-9
    )


def test_levels_far_from_every_mean_are_unlikely_and_not_impossible() -> None:
    mixture = LogisticMixture(1, 1)
    outputs = torch.tensor([[0.0, -1.0, -7.0]]).view(1, 3, 1, 1).requires_grad_()
    nll = mixture.nll(outputs, torch.full((1, 1, 1, 1), 2 * 254 / LEVELS - 1))
    nll.sum().backward()
    assert nll.item() == pytest.approx((2 - 3 / LEVELS) * math.exp(7), rel=1e-3)  # the tail of a logistic
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    torch.manual_seed(0)
    mixture = LogisticMixture(2, 2)
    outputs = torch.tensor([0.5, -0.99, -0.98, -6, -6, 0.5, -0.5, -0.985, -1.2, -5.5, -5.5, 0.3])
    drawn = (mixture.image(mixture.draw(outputs.expand(40_000, -1))) * LEVELS).round().long()
    levels = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    expected = (
        -mixture.nll(outputs.view(1, -1, 1, 1).expand(25, -1, 1, 1), mixture.grid(levels.view(-1, 2, 1, 1) / LEVELS))
    ).exp()
    got = torch.stack([(drawn == level).all(dim=1).float().mean() for level in levels])
    assert got.sum() > 0.4
    torch.testing.assert_close(got, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_block_is_one_of_all_its_patterns(side: int) -> None:
    torch.manual_seed(0)
    blocks, x = Blocks(side), torch.bernoulli(torch.full((4, 1, 6, 12), 0.5))
    grid = blocks.grid(x)
    assert torch.equal(blocks.image(grid), x)
    assert grid.shape == (4, side * side, 6 // side, 12 // side)
    outputs = torch.randn(4, blocks.outputs, *grid.shape[2:])
    block = x[1, 0, side : 2 * side, :side].flatten()  # the one below the first
    pattern = sum(int(bit) << place for place, bit in enumerate(block.tolist()))
    expected = -Categorical(logits=outputs[1, :, 1, 0]).log_prob(torch.tensor(pattern))
    alone = blocks.nll(outputs[1:2, :, 1:2, :1], grid[1:2, :, 1:2, :1])
    torch.testing.assert_close(alone, expected[None])
    places = [
        blocks.nll(outputs[:, :, i : i + 1, j : j + 1], grid[:, :, i : i + 1, j : j + 1])
        for i, j in np.ndindex(*grid.shape[2:])
    ]
    torch.testing.assert_close(blocks.nll(outputs, grid), torch.stack(places).sum(dim=0))


def test_blocks_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    blocks, outputs = Blocks(2), torch.randn(1, 16)
    drawn = blocks.draw(outputs.expand(20_000, -1))
    shares = torch.bincount((drawn.long() * torch.tensor([1, 2, 4, 8])).sum(dim=1), minlength=16) / 20_000
    torch.testing.assert_close(shares, outputs.softmax(dim=1)[0], atol=0.01, rtol=0)


def test_binarisation_is_the_one_that_was_named() -> None:
    x = torch.full((1, 1, 50, 50), 0.25)
    assert binarised(x, "none") is x
    assert binarised(x, "threshold").sum() == 0
    assert binarised(x + 0.26, "threshold").min() == 1
    dynamic = binarised(x, "dynamic")
    assert set(dynamic.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < dynamic.mean() < 0.3


def test_the_distribution_is_that_of_the_pixels() -> None:
    assert isinstance(pixels_of(ImageShape(8, 1), "dynamic", 2, 5), Blocks)
    assert isinstance(pixels_of(ImageShape(8, 1), "none", 1, 5), LogisticMixture)
    assert pixels_of(ImageShape(8, 3), "none", 1, 5).outputs == 50


@pytest.mark.parametrize(
    ("channels", "binarise", "block", "message"),
    [
        (3, "threshold", 1, "binarise: got threshold for 3 channels, expected none"),
        (1, "none", 2, "block: got 2, expected 1: only binarised"),
        (1, "dynamic", 3, "block: got 3 for images of 8 x 8, expected what divides both"),
        (1, "dynamic", 4, "block: got 4, expected 1 to 3"),
    ],
)
def test_pixels_that_cannot_be_are_refused(channels: int, binarise: Any, block: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels_of(ImageShape(8, channels), binarise, block, 5)


def test_a_bit_for_each_number_is_a_fair_coin_s() -> None:
    x = torch.zeros(1, 3, 4, 4)
    assert bits_per_dim(48 * torch.tensor(2.0).log(), x.shape[1:]).item() == pytest.approx(1)
