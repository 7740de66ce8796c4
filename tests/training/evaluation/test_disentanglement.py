from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from training.evaluation.disentanglement import (
    NUM_BINS,
    beta_vae_metric,
    dci,
    disentanglement,
    mutual_information_gaps,
    sap,
)

RNG = np.random.default_rng(0)
FACTORS = np.stack([RNG.integers(count, size=1200) for count in (3, 5, 8)], axis=1)
OF_NO_USE = RNG.normal(size=(1200, 2))


def with_noise(codes: NDArray[Any]) -> NDArray[Any]:
    return codes + 0.05 * np.random.default_rng(1).normal(size=codes.shape)


def rotated(codes: NDArray[Any]) -> NDArray[Any]:
    """A rotation: nothing is lost, but every latent follows several factors."""
    standard = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    mixed = np.linalg.qr(np.random.default_rng(3).normal(size=(codes.shape[1], codes.shape[1])))[0]
    return standard @ mixed


ALIGNED = with_noise(np.concatenate([FACTORS / [2, 4, 7], OF_NO_USE], axis=1))
RANDOM = np.random.default_rng(2).normal(size=(1200, 5))


def test_one_latent_a_factor_is_near_one_by_every_figure() -> None:
    figures = disentanglement(ALIGNED, FACTORS)
    assert figures.keys() == {
        "mig",
        "dci_disentanglement",
        "dci_completeness",
        "dci_informativeness",
        "sap",
        "beta_vae_metric",
    }
    assert figures["mig"] > 0.85
    assert figures["dci_disentanglement"] > 0.9
    assert figures["dci_completeness"] > 0.9
    assert figures["dci_informativeness"] > 0.9
    assert figures["sap"] > 0.6  # chance on the second best latent is 1/3, 1/5 and 1/8
    assert figures["beta_vae_metric"] > 0.99


def test_codes_that_know_nothing_are_near_nothing_by_every_figure() -> None:
    figures = disentanglement(RANDOM, FACTORS)
    assert figures["mig"] < 0.03
    assert figures["dci_disentanglement"] < 0.15
    assert figures["dci_completeness"] < 0.15
    assert figures["dci_informativeness"] == pytest.approx((1 / 3 + 1 / 5 + 1 / 8) / 3, abs=0.06)
    assert figures["sap"] < 0.06
    assert figures["beta_vae_metric"] == pytest.approx(1 / 3, abs=0.06)


def test_entangled_codes_are_told_from_aligned_ones() -> None:
    aligned, entangled = disentanglement(ALIGNED, FACTORS), disentanglement(rotated(ALIGNED[:, :3]), FACTORS)
    assert entangled["mig"] < 0.4 * aligned["mig"]
    assert entangled["dci_disentanglement"] < 0.6 * aligned["dci_disentanglement"]
    assert entangled["dci_completeness"] < 0.6 * aligned["dci_completeness"]
    assert entangled["sap"] < 0.5 * aligned["sap"]
    assert entangled["dci_informativeness"] > 0.7  # what is known is not lost, only shared by several latents


def test_a_factor_fixed_is_hidden_where_two_latents_mix_it_evenly_with_another() -> None:
    grid = RNG.integers(8, size=(2000, 2))
    turn = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    assert beta_vae_metric(grid / 7, grid) > 0.99
    assert beta_vae_metric(grid / 7 @ turn, grid) < 0.75


def test_a_factor_in_two_latents_is_disentangled_but_not_complete() -> None:
    twice = with_noise(np.concatenate([FACTORS, FACTORS], axis=1) / [2, 4, 7, 2, 4, 7])
    disentangled, complete, _ = dci(twice, FACTORS)
    assert disentangled > 0.9
    assert complete < 0.75
    assert mutual_information_gaps(twice, FACTORS).mean() < 0.1
    assert sap(twice, FACTORS) < 0.1


def test_the_order_of_the_latents_does_not_matter() -> None:
    before, after = disentanglement(ALIGNED, FACTORS), disentanglement(ALIGNED[:, [4, 2, 0, 3, 1]], FACTORS)
    for name, value in before.items():
        tolerance = 0.02 if name.startswith("dci") else 1e-6  # trees break ties between latents by their order
        assert after[name] == pytest.approx(value, abs=tolerance), name


def test_the_unit_of_a_latent_does_not_matter() -> None:
    before, after = disentanglement(ALIGNED, FACTORS), disentanglement(ALIGNED * [1e-4, 1e-4, 1e-4, 1, 1e4], FACTORS)
    assert after == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("codes", [np.zeros((1200, 3)), np.concatenate([np.ones((1200, 1)), ALIGNED], axis=1)])
def test_constant_latents_give_numbers(codes: NDArray[Any]) -> None:
    figures = disentanglement(codes, FACTORS)
    assert all(0 <= value <= 1 for value in figures.values())
    if codes.any():
        assert figures["mig"] == pytest.approx(disentanglement(ALIGNED, FACTORS)["mig"])
    else:
        assert figures["mig"] == figures["sap"] == figures["dci_disentanglement"] == 0


def test_a_single_latent_has_no_rival() -> None:
    gaps = mutual_information_gaps(ALIGNED[:, :1], FACTORS)
    assert gaps[0] > 0.85
    assert gaps[1:].max() < 0.05


def test_mig_is_the_slow_one() -> None:
    codes = 0.7 * ALIGNED[:, ::-1] + 0.3 * RANDOM

    def binned(column: NDArray[Any]) -> list[int]:
        width = (column.max() - column.min()) / NUM_BINS
        return [min(int((value - column.min()) / width), NUM_BINS - 1) for value in column]

    expected = []
    for factor in FACTORS.T:
        informations = sorted(mutual_info_score(binned(column), factor) for column in codes.T)
        expected.append((informations[-1] - informations[-2]) / mutual_info_score(factor, factor))
    np.testing.assert_allclose(mutual_information_gaps(codes, FACTORS), expected, atol=1e-6)


def test_a_factor_that_does_not_vary_is_left_out() -> None:
    fixed = np.concatenate([FACTORS, np.full((1200, 1), 7)], axis=1)
    assert disentanglement(ALIGNED, fixed) == disentanglement(ALIGNED, FACTORS)


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (ALIGNED[:10], FACTORS, r"codes: got \(10, 5\) with factors \(1200, 3\)"),
        (np.full((1200, 2), np.nan), FACTORS, "codes: got NaN or infinite values"),
        (ALIGNED, FACTORS[:, :1], "factors: got 1 that vary, expected two or more"),
    ],
)
def test_what_cannot_be_measured_is_rejected(codes: Any, factors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        disentanglement(codes, factors)
