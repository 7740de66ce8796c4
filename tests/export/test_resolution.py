"""Scores are continuous at float32's resolution: rounding moves no p-value by more than it is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import nn

from export.detectors import Scorer
from export.detectors.covariance import whitening
from export.detectors.density import Density
from export.detectors.detector import ROUNDING, SMALLEST_DEVIATION, nudged, unit
from export.detectors.fusion import STEEPEST, Fusion, knots
from export.detectors.magnitude import Magnitude
from export.detectors.mahalanobis import ClusterMahalanobis, Mahalanobis
from export.detectors.neighbours import K, Neighbours
from export.detectors.resolution import Plateaus, plateaus_of, scores_of
from export.detectors.statistics import SMALLEST_ERROR, statistics
from latentserve.conformal import worst_move
from latentserve.inputs import INPUT

ON_EMBEDDING = [Mahalanobis, ClusterMahalanobis, Neighbours, Density, Magnitude]
STEP = 2.0**-23


def tensors_of(num: int, alike: float, seed: int = 0, dim: int = 12) -> dict[str, NDArray[Any]]:
    """What a model that reconstructs returns for rows of which a share is one and the same row."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.random.default_rng(7).standard_normal((3, dim))
    embedding = centres[rng.integers(0, 3, num)] + rng.standard_normal((num, dim)) * np.geomspace(0.1, 2, dim)
    found = {
        INPUT: rng.integers(0, 256, (num, 8, 8, 1), dtype=np.uint8),
        "embedding": embedding.astype(np.float32),
        "latent": rng.standard_normal((num, 3), np.float32),
        "latent_scale": rng.uniform(0.1, 1, (num, 3)).astype(np.float32),
        "reconstruction": rng.random((num, 8, 8, 1), np.float32),
    }
    same = rng.permutation(num)[: round(alike * num)]
    one = tensors_of(1, 0, seed=99, dim=dim) if alike else found
    for name, array in found.items():
        array[same] = one[name][0]
    return found


def fitted(tensors: dict[str, NDArray[Any]]) -> Scorer:
    """Every row a unit: copies are among the reference rows, as embeddings of different inputs may be."""
    return Scorer.fit(nn.Module(), tensors, np.arange(len(tensors["embedding"])))


def elsewhere(scorer: Scorer, tensors: dict[str, NDArray[Any]], seed: int) -> NDArray[np.float32]:
    """Scores as another machine might compute them: tensors and features are rounded otherwise."""
    given = {name: torch.from_numpy(tensors[name]) for name in scorer.inputs}
    with torch.no_grad():
        scores_BK = scores_of(scorer.detectors, given, torch.Generator().manual_seed(seed))
        if scorer.plateaus is not None:
            scores_BK = scorer.plateaus(scores_BK)
        fusion: Any = scorer.fusion
        fused_B2 = fusion(scores_BK)
        fused_B2 = fused_B2 * (1 + STEP * torch.randint(-1, 2, fused_B2.shape))  # logarithms of another library
        if scorer.fused_plateaus is not None:
            fused_B2 = scorer.fused_plateaus(fused_B2)
        found: NDArray[np.float32] = torch.cat([fused_B2, scores_BK], dim=1).numpy()
    return found


@pytest.mark.parametrize("alike", [0, 0.3, 0.5, 0.95, 1])
def test_p_values_of_every_detector_stay_whoever_rounds(alike: float) -> None:
    scorer = fitted(tensors_of(500, alike))
    calibration, new = tensors_of(300, alike, seed=1), tensors_of(300, alike, seed=2)
    ordered = np.sort(scorer.scores(calibration), axis=0)
    of_column = dict(zip(scorer.names, ordered.T, strict=True))
    expected = scorer.scores(new)
    for seed in range(100, 104):
        move = worst_move(elsewhere(scorer, new, seed), expected, of_column)
        assert move.holds, move


@pytest.mark.parametrize("alike", [0.5, 1])
def test_copies_have_one_score_to_the_last_bit(alike: float) -> None:
    scorer = fitted(tensors_of(500, alike))
    copies = {name: np.repeat(array, 40, axis=0) for name, array in tensors_of(1, 1).items()}
    for seed in range(100, 104):
        np.testing.assert_array_equal(elsewhere(scorer, copies, seed), scorer.scores(copies))


def test_of_rows_that_are_all_one_another_is_found() -> None:
    scorer = fitted(tensors_of(500, 1))
    same, other = scorer.scores(tensors_of(50, 1))[:, 0], scorer.scores(tensors_of(50, 0))[:, 0]
    assert other.min() > same.max()


@pytest.mark.parametrize("rows", [np.zeros((300, 4000), np.int16), np.full((300, 16, 16, 3), 255, np.uint8)])
@pytest.mark.parametrize("embedding", [0.0, 1.0])
def test_silence_and_blank_images_are_scored(rows: NDArray[Any], embedding: float) -> None:
    tensors = {INPUT: rows, "embedding": np.full((300, 200), embedding, np.float32)}
    scores = Scorer.fit(nn.Module(), tensors).scores(tensors)
    assert np.isfinite(scores).all()
    assert (scores == scores[0]).all()


# --- one by one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("place", [0.0, 0.1, 1.0])
def test_where_many_reference_scores_are_equal_p_has_no_step(share: float, place: float) -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.02, 0.2, 200).astype(np.float32)
    reference[: round(share * 200)] = place
    fusion = Fusion(np.repeat(reference[:, None], 2, axis=1))
    near = torch.tensor([place + step * STEP for step in (-2, -1, 0, 1, 2)])[:, None].repeat(1, 2)
    p = torch.exp(-fusion.surprise(near))[:, 0]
    assert p.max() - p.min() < 0.01
    assert p.min() > 0
    assert fusion(near).diff(dim=0).abs().max() < 0.1


@settings(deadline=None)
@example(reference=np.array([0.001, 0.001]), score=0.0009725190775009779, step=0.0009725190775009779)
@given(
    arrays.arrays(
        np.float64, st.integers(2, 300), elements=st.sampled_from([0.0, 1e-7, 1e-3, 0.1, 0.1000001, 1.0, 7.0])
    ),
    st.floats(-1, 8),
    st.floats(1e-7, 1e-3),
)
def test_the_fusion_is_nowhere_steeper_than_its_detectors_are_known(
    reference: NDArray[np.float64], score: float, step: float
) -> None:
    resolution = 1e-5
    fusion = Fusion(reference[:, None], np.array([resolution])).double()
    one, other = fusion.surprise(torch.tensor([[score], [score + step]], dtype=torch.float64))[:, 0].tolist()
    assert -1e-6 <= other - one <= STEEPEST * step / resolution * (1 + 1e-3) + 1e-3


def test_of_rows_that_nearly_agree_neighbours_keep_the_digits() -> None:
    """Half the squared distance is 5e-9 and less: 1 - cosine is 0 or 6e-8."""
    rng = np.random.default_rng(0)
    for dim in (16, 300):  # a bank as it is, and one of leading directions
        middle = rng.standard_normal(dim)
        rows = (middle + 1e-5 * np.linalg.norm(middle) * rng.standard_normal((400, dim))).astype(np.float32)
        train, test = rows[:300], rows[300:]
        got = Neighbours.fit({"embedding": train})(torch.from_numpy(test)).numpy()
        x, y = (
            one.astype(np.float64) / np.linalg.norm(one.astype(np.float64), axis=1)[:, None] for one in (train, test)
        )
        expected = np.sort(np.square(y[:, None] - x).sum(axis=2) / 2, axis=1)[:, K - 1]
        np.testing.assert_allclose(got, expected, rtol=0.1)


@pytest.mark.parametrize("kind", ON_EMBEDDING)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_detector_of_equal_rows_knows_them_again_after_rounding(kind: Any, size: float) -> None:
    row = size * np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    copies = torch.from_numpy(np.repeat(row, 300, axis=0))
    detector = kind.fit({"embedding": copies.numpy()})
    rounded = nudged(copies, torch.Generator().manual_seed(1))
    other = torch.from_numpy(size * np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32))
    moved, apart = (detector(rows) - detector(copies[:1]) for rows in (rounded, other))
    assert torch.isfinite(detector(copies)).all()
    # sqrt(64) deviations of 1/128 each move a distance by a sixteenth; what is different is far beyond
    assert moved.abs().max() < 0.2
    assert apart.min() > 3 * moved.abs().max()


@pytest.mark.parametrize("kind", ON_EMBEDDING)
def test_an_embedding_of_nothing_but_rounding_is_one_of_nothing(kind: Any) -> None:
    train = np.maximum(tensors_of(300, 0)["embedding"], 0)
    detector = kind.fit({"embedding": train})
    size = float(np.sqrt(np.square(train).mean()))
    signs = torch.randint(0, 2, (20, 12), generator=torch.Generator().manual_seed(0)) * 2 - 1
    moved, of_directions = (detector(length * size * signs) - detector(torch.zeros(1, 12)) for length in (ROUNDING, 1))
    assert moved.abs().max() < of_directions.abs().max() / 16


def test_a_posterior_that_is_the_prior_has_no_kl_but_rounding() -> None:
    images, scale = torch.zeros(64, 8, 8, 1, dtype=torch.uint8), torch.ones(64, 16)
    moved = nudged(scale, torch.Generator().manual_seed(0))
    same, rounded = (statistics(images, images.float(), 0 * scale, sigma) for sigma in (scale, moved))
    torch.testing.assert_close(same, rounded, rtol=1e-5, atol=1e-5)
    assert same[:, 0].unique().tolist() == pytest.approx([math.log(SMALLEST_ERROR)])


# --- plateaus ---------------------------------------------------------------------------------------------------------


def test_plateaus_are_flat_and_have_no_step() -> None:
    scores = np.concatenate([np.full(60, 0.5), np.full(60, 0.5002), np.linspace(0, 2, 80)])[:, None]
    plateaus = Plateaus.fit(scores, np.full_like(scores, 2e-5))
    assert plateaus is not None
    assert plateaus.centre_AK[:, 0].tolist() == [0.5, 0.5002]
    reach = plateaus.reach_AK.max().item()
    assert reach == pytest.approx(1e-4)  # 8 x 2e-5, but no further than half way to the other
    fine = torch.linspace(0.499, 0.501, 20001)[:, None]
    slopes = plateaus(fine).double().diff(dim=0) / fine.double().diff(dim=0)
    assert slopes.min() >= 0
    assert slopes.max() < 1.5  # two numbers of float32 are this far apart where four should be
    for centre in (0.5, 0.5002):
        inside = torch.linspace(centre - 0.9 * reach, centre + 0.9 * reach, 101)[:, None]
        assert len(plateaus(inside).unique()) == 1


def test_no_more_rows_than_chance_explains_make_no_plateau() -> None:
    scores, moved = np.linspace(0, 1, 400), np.full(400, 1e-6)
    for copies, expected in ((20, 0), (22, 1)):  # 1 + sqrt(400) is 21
        scores[:copies] = scores[0]
        assert len(plateaus_of(scores, moved)) == expected
    assert Plateaus.fit(np.linspace(0, 1, 400)[:, None], moved[:, None]) is None


# --- scores of ordinary rows are what they were -----------------------------------------------------------------------


def test_nothing_of_this_is_felt_by_ordinary_rows() -> None:
    """Scores of recorded bundles stay: against the formulas without any of this."""
    train, new = tensors_of(3000, 0, dim=64), tensors_of(300, 0, seed=1, dim=64)
    scorer = fitted(train)
    assert scorer.plateaus is None
    columns = dict(zip(scorer.names, scorer.scores(new).T, strict=True))
    of_name = {detector.name: detector for detector in scorer.detectors}

    x = unit(torch.from_numpy(train["embedding"]).double()).numpy()
    expected = np.linalg.cholesky(LedoitWolf().fit(x).precision_)
    np.testing.assert_allclose(whitening(x, np.full(64, SMALLEST_DEVIATION / 8)), expected, rtol=1e-9, atol=1e-9)

    knn = of_name["knn"]
    bank_ND = knn.bank_NP @ knn.directions.leading_DP.T + knn.directions.mean_D
    similar = unit(torch.from_numpy(new["embedding"])) @ bank_ND.T
    np.testing.assert_allclose(1 - similar.topk(K).values[:, -1].numpy(), columns["knn"], atol=5e-7)

    fusion: Any = scorer.fusion
    ranks = knots(fusion.num_rows)
    change = np.diff(np.log([*ranks, fusion.num_rows + 1]))[:-1, None]
    drawn_out = (
        fusion.gap_QK[:-1] / torch.from_numpy(change) <= 1.001 * (fusion.gap_QK[-1] / math.log1p(1 / 600))
    ).sum()
    assert drawn_out <= 0.01 * fusion.gap_QK.numel()
