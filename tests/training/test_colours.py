from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab
from scipy.stats import multivariate_normal

from training.colours import ColourBins, chroma, gamut_bins, lightness, rebalancing, smoothed, squared_distances


def test_lightness_and_chroma_are_those_of_kornia() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 9, 7)
    images[0] *= 0.03  # below the knees of both curves
    expected = rgb_to_lab(images)
    torch.testing.assert_close(100 * lightness(images), expected[:, :1], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(chroma(images), expected[:, 1:], atol=1e-2, rtol=1e-3)


def test_known_colours() -> None:
    """Source: the CIE's values of sRGB's primaries, to two places."""
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]])[..., None, None]
    lab = torch.cat([100 * lightness(rgb), chroma(rgb)], dim=1)[:, :, 0, 0]
    expected = [
        *([53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]),
        *([100, 0, 0], [0, 0, 0], [53.39, 0, 0]),
    ]
    np.testing.assert_allclose(lab, expected, atol=0.05)


def test_bins_are_a_lattice_that_the_colours_of_rgb_fall_into() -> None:
    bins = gamut_bins(10.0)
    assert len(bins) == 259
    assert (bins % 10 == 0).all()
    torch.manual_seed(0)
    colours = chroma(torch.rand(1, 3, 100, 100))[0].flatten(1).T
    within = squared_distances(colours, bins).min(dim=1).values <= 2 * 5.0**2  # half a diagonal
    assert within.float().mean() > 0.999
    assert len(gamut_bins(20.0)) < len(bins) < len(gamut_bins(5.0))


@pytest.mark.parametrize("size", [5.0, 10.0, 20.0, 50.0])
def test_the_nearest_bins_are_the_nearest_of_all_and_their_shares_those_of_a_gaussian(size: float) -> None:
    torch.manual_seed(0)
    corners = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])]).T[None, :, :, None]
    colours = torch.cat([chroma(x)[0].flatten(1).T for x in (torch.rand(1, 3, 40, 40), corners)])
    bins = ColourBins(size)
    nearest, shares = bins.nearest(colours, 5, 5.0)
    squared = squared_distances(colours, bins.middle_Q2)
    torch.testing.assert_close(squared.gather(1, nearest), squared.topk(5, largest=False).values)
    for colour, chosen, share in zip(colours[::200], nearest[::200], shares[::200], strict=True):
        density = [multivariate_normal(colour, 25.0).pdf(bins.middle_Q2[k]) for k in chosen]
        np.testing.assert_allclose(share, np.array(density) / sum(density), atol=1e-4)


def test_a_colour_beyond_all_bins_has_the_nearest_ones() -> None:
    nearest, shares = ColourBins(10.0).nearest(torch.tensor([[999.0, 999.0], [-999.0, 0.0]]), 5, 5.0)
    assert shares.isfinite().all()
    assert nearest.min() >= 0


def test_a_prior_is_spread_by_a_gaussian_and_nothing_of_it_is_lost() -> None:
    bins = gamut_bins(10.0)
    prior = torch.zeros(len(bins))
    grey = int((bins == 0).all(dim=1).nonzero())
    prior[grey] = 1.0
    spread = smoothed(prior, bins, 5.0)
    assert spread.sum().item() == pytest.approx(1, abs=1e-6)
    beside = int((bins == torch.tensor([10.0, 0.0])).all(dim=1).nonzero())
    assert (spread[beside] / spread[grey]).item() == pytest.approx(np.exp(-100 / 50), rel=1e-5)


def test_weights_are_equation_4() -> None:
    p = torch.tensor([0.7, 0.2, 0.1, 0.0])
    raw = np.array([1 / (0.5 * one + 0.5 / 4) for one in p])
    np.testing.assert_allclose(rebalancing(p, 0.5), raw / (p.numpy() * raw).sum(), rtol=1e-5)
    assert (p * rebalancing(p, 0.5)).sum().item() == pytest.approx(1)
    torch.testing.assert_close(rebalancing(p, 1.0), torch.ones(4))
