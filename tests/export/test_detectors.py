from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import nn

from export.detectors import Scorer
from export.detectors.covariance import shrunk_covariance
from export.detectors.density import Density
from export.detectors.detector import unit
from export.detectors.directions import MOST_DIRECTIONS, OnDirections, Placed, fitted_on, scores_by
from export.detectors.fusion import LARGEST_P, Fusion, knots
from export.detectors.joint import JointDiscriminator
from export.detectors.magnitude import Magnitude
from export.detectors.mahalanobis import ClusterMahalanobis, Mahalanobis
from export.detectors.neighbours import BANK_DIM, BANK_ROWS, K, Neighbours
from export.detectors.statistics import StatisticsMahalanobis, statistics
from export.graphs import GraphRunner, export_graph
from latentserve.conformal import p_values
from latentserve.inputs import INPUT
from training.methods.vae import gaussian_kl

DIRECTION_DETECTORS = [Mahalanobis, ClusterMahalanobis, Neighbours, Density]
EMBEDDING_DETECTORS = [*DIRECTION_DETECTORS, Magnitude]


def clustered(num: int, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings around three centres, in 12 dimensions of very different scales."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.random.default_rng(7).standard_normal((3, 12))
    points = centres[rng.integers(0, 3, num)] + rng.standard_normal((num, 12)) * np.geomspace(0.1, 2, 12)
    return points.astype(np.float32)


def normalised(x: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    return found


def scores(detector: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = detector(torch.from_numpy(x)).numpy()
    return found


@pytest.mark.parametrize(("num", "dim"), [(7, 20), (300, 5), (5000, 12), (40, 1)])
def test_the_shrunk_covariance_is_scikit_learns_whatever_the_parts(num: int, dim: int) -> None:
    x_ND = np.random.default_rng(num).standard_normal((num, dim)) * np.arange(1, dim + 1)
    oracle = LedoitWolf(assume_centered=True).fit(x_ND)
    for rows in (1, 3, num):
        covariance, share = shrunk_covariance(x_ND[start : start + rows] for start in range(0, num, rows))
        np.testing.assert_allclose(covariance, oracle.covariance_, rtol=1e-9, atol=1e-12)
        if dim > 1:
            assert share == pytest.approx(oracle.shrinkage_, rel=1e-9)


def test_mahalanobis_is_scipys_with_scikit_learns_shrinkage() -> None:
    train, test = clustered(500), clustered(40, 1)
    oracle = LedoitWolf().fit(normalised(train))
    expected = [mahalanobis(row, oracle.location_, oracle.precision_) for row in normalised(test)]
    np.testing.assert_allclose(scores(Mahalanobis.fit({"embedding": train}), test), expected, rtol=1e-3)


def test_the_distance_to_clusters_is_that_to_the_nearest_within_its_own_covariance() -> None:
    train, test = clustered(900), clustered(40, 1)
    z = normalised(train)
    clusters = KMeans(10, n_init=3, random_state=0).fit(z)
    precision = LedoitWolf(assume_centered=True).fit(z - clusters.cluster_centers_[clusters.labels_]).precision_
    expected = [
        min(mahalanobis(row, centre, precision) for centre in clusters.cluster_centers_) for row in normalised(test)
    ]
    np.testing.assert_allclose(scores(ClusterMahalanobis.fit({"embedding": train}), test), expected, rtol=1e-3)


def test_neighbours_are_scikit_learns() -> None:
    train, test = clustered(300), clustered(40, 1)
    distances, _ = NearestNeighbors(n_neighbors=K, metric="cosine").fit(train).kneighbors(test)
    np.testing.assert_allclose(scores(Neighbours.fit({"embedding": train}), test), distances[:, -1], atol=1e-6)


@pytest.mark.parametrize("num", [2, 4, K, 7])
def test_of_fewer_rows_than_are_asked_for_the_farthest_counts(num: int) -> None:
    train, test = clustered(num), clustered(40, 1)
    distances, _ = NearestNeighbors(n_neighbors=min(K, num), metric="cosine").fit(train).kneighbors(test)
    np.testing.assert_allclose(scores(Neighbours.fit({"embedding": train}), test), distances[:, -1], atol=1e-6)


def test_a_bank_stays_within_what_a_bundle_may_carry() -> None:
    wide = np.random.default_rng(0).standard_normal((6000, 512)).astype(np.float32)
    detector = Neighbours.fit({"embedding": wide})
    assert detector.bank_NP.shape == (BANK_ROWS, BANK_DIM)
    assert detector.directions.leading_DP.shape == (512, BANK_DIM)


def in_few(num: int, dim: int, generator: np.random.Generator, spread: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of many dimensions that lie in as many as `spread` has rows."""
    rows: NDArray[np.float32] = (generator.standard_normal((num, len(spread))) @ spread).astype(np.float32)
    assert rows.shape == (num, dim)
    return rows


@pytest.mark.parametrize("shared", [True, False])
def test_a_bank_of_many_dimensions_gives_the_similarities_along_its_directions(shared: bool) -> None:
    """Rows that lie in 100 of 512 dimensions: nothing is lost, within them or anywhere."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((100, 512))
    train, within = in_few(400, 512, rng, spread), in_few(40, 512, rng, spread)
    detector = fitted_on({"embedding": train}, [Neighbours])[0] if shared else Neighbours.fit({"embedding": train})
    assert detector.directions.leading_DP.shape == (512, MOST_DIRECTIONS if shared else BANK_DIM)  # type: ignore[attr-defined]
    oracle = NearestNeighbors(n_neighbors=K, metric="cosine").fit(train)
    for test in (within, rng.standard_normal((40, 512)).astype(np.float32)):
        distances, _ = oracle.kneighbors(test)
        np.testing.assert_allclose(scores(detector, test), distances[:, -1], atol=1e-6)


def test_a_rare_kind_that_leaves_the_others_in_a_direction_of_its_own_finds_its_like() -> None:
    """Its length lies along directions of little variance, since it is rare."""
    rng = np.random.default_rng(0)
    usual = np.concatenate([3 + rng.standard_normal((4000, 70)), np.zeros((4000, 30))], axis=1)
    kinds = np.concatenate([np.full((30, 70), 3.0), 20 * np.eye(30)], axis=1)
    rare, asked = (np.repeat(kinds, num, axis=0) + 0.5 * rng.standard_normal((30 * num, 100)) for num in (10, 1))
    train, test = np.concatenate([usual, rare]).astype(np.float32), asked.astype(np.float32)
    distances, _ = NearestNeighbors(n_neighbors=K, metric="cosine").fit(train).kneighbors(test)
    np.testing.assert_allclose(scores(Neighbours.fit({"embedding": train}), test), distances[:, -1], atol=1e-6)


def with_one_variance_outside(x_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """The precision by scikit-learn's covariance, of whose variances all but the largest become their mean."""
    variance_D, directions_DD = np.linalg.eigh(LedoitWolf().fit(x_ND).covariance_)
    variance_D[:-MOST_DIRECTIONS] = variance_D[:-MOST_DIRECTIONS].mean()
    precision: NDArray[np.float64] = (directions_DD / variance_D) @ directions_DD.T
    return precision


def test_of_many_dimensions_those_outside_have_one_variance() -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((400, 400)) * (np.arange(1, 401) ** -0.5)[:, None]
    train, test = in_few(900, 400, rng, spread) + 0.5, in_few(40, 400, rng, spread) + 0.5
    z = normalised(train)
    precision = with_one_variance_outside(z)
    expected = [mahalanobis(row, z.mean(axis=0), precision) for row in normalised(test)]
    single, clusters = fitted_on({"embedding": train}, [Mahalanobis, ClusterMahalanobis])
    np.testing.assert_allclose(scores(single, test), expected, rtol=1e-4)
    # beyond the directions the distance to any cluster is the same
    outside = np.square(expected) - np.square(
        [np.linalg.norm(single.directions(torch.from_numpy(row[None])).y_BP[0] / single.deviation_P) for row in test]  # type: ignore[attr-defined]
    )
    assert (scores(clusters, test) > np.sqrt(outside)).all()


def test_detectors_of_a_bundle_hold_the_same_directions_and_work_them_out_once() -> None:
    detectors = fitted_on({"embedding": clustered(300)}, [Mahalanobis, ClusterMahalanobis, Neighbours, Density])
    held: list[Any] = [detector.directions for detector in detectors if isinstance(detector, OnDirections)]
    assert len(held) == 4
    assert len({id(one) for one in held}) == 1
    rows, placed, calls = torch.from_numpy(clustered(40, 1)), dict[object, Placed](), []
    held[0].register_forward_hook(lambda *_: calls.append(1))
    for detector in detectors:
        torch.testing.assert_close(scores_by(detector, [rows], placed), detector(rows))
    assert len(calls) == 1 + 4


def test_density_is_scikit_learns_of_the_components_with_the_lowest_bic() -> None:
    train, test = clustered(600), clustered(40, 1)
    detector = Density.fit({"embedding": train})
    pca = PCA(12, whiten=True).fit(normalised(train))
    z = pca.transform(normalised(train))
    mixtures = [GaussianMixture(num, reg_covar=1e-3, random_state=0).fit(z) for num in (1, 2, 5, 10)]
    best = min(mixtures, key=lambda mixture: mixture.bic(z))
    assert len(detector.log_weight_K) == best.n_components > 1
    expected = -best.score_samples(pca.transform(normalised(test)))
    np.testing.assert_allclose(scores(detector, test), expected, rtol=1e-3, atol=2e-2)


def test_magnitude_is_the_distance_of_two_logarithms_and_has_two_sides() -> None:
    train, test = clustered(500) + 3, clustered(40, 1) + 3

    def size_and_spread(x: NDArray[Any]) -> NDArray[np.float64]:
        size = np.linalg.norm(x.astype(np.float64), axis=1)
        return np.log(np.stack([size, np.abs(x.astype(np.float64)).sum(axis=1) / size], axis=1))

    s = size_and_spread(train)
    oracle = LedoitWolf().fit((s - s.mean(axis=0)) / s.std(axis=0))
    expected = [
        mahalanobis(row, np.zeros(2), oracle.precision_)
        for row in (size_and_spread(test) - s.mean(axis=0)) / s.std(axis=0)
    ]
    detector = Magnitude.fit({"embedding": train})
    np.testing.assert_allclose(scores(detector, test), expected, rtol=2e-3)
    highest = scores(detector, test).max()
    for factor in (0.2, 5.0):  # weaker and stronger than in training
        assert scores(detector, factor * test).min() > highest


def test_dead_dimensions_of_an_embedding_do_no_harm() -> None:
    train = np.concatenate([clustered(300), np.zeros((300, 20), np.float32)], axis=1)
    for kind in EMBEDDING_DETECTORS:
        assert np.isfinite(scores(kind.fit({"embedding": train}), train)).all(), kind


@pytest.mark.parametrize("kind", EMBEDDING_DETECTORS)
def test_what_is_no_number_gets_no_in_distribution_score(kind: Any) -> None:
    detector = kind.fit({"embedding": clustered(300)})
    ood = np.stack([np.full(12, value, np.float32) for value in (np.nan, np.inf, -np.inf)])
    assert not np.isfinite(scores(detector, ood)).any()
    calibration = np.sort(scores(detector, clustered(99, 1)))
    np.testing.assert_allclose(p_values(scores(detector, ood), calibration), 0.01)


@pytest.mark.parametrize("kind", EMBEDDING_DETECTORS)
def test_a_row_of_zeros_is_no_trouble(kind: Any) -> None:
    assert np.isfinite(scores(kind.fit({"embedding": clustered(300)}), np.zeros((1, 12), np.float32))).all()


@pytest.mark.parametrize("kind", DIRECTION_DETECTORS)
def test_a_detector_of_directions_does_not_see_the_length(kind: Any) -> None:
    detector = kind.fit({"embedding": clustered(300)})
    np.testing.assert_allclose(scores(detector, 5 * clustered(9)), scores(detector, clustered(9)), rtol=1e-3, atol=1e-4)


def test_statistics_are_what_their_names_say() -> None:
    x = torch.randint(0, 256, (5, 4, 4, 1), dtype=torch.uint8)
    reconstruction, mu, logvar = torch.rand(5, 4, 4, 1), torch.randn(5, 3), torch.randn(5, 3)
    got = statistics(x, reconstruction, mu, (0.5 * logvar).exp()).exp()
    torch.testing.assert_close(got[:, 0], (x / 255 - reconstruction).square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(got[:, 1], mu.norm(dim=1))
    torch.testing.assert_close(got[:, 2], (0.5 * logvar).exp().norm(dim=1))
    torch.testing.assert_close(got[:, 3], gaussian_kl(mu, logvar), rtol=1e-4, atol=1e-4)


def generated(num: int) -> dict[str, NDArray[Any]]:
    """Tensors of a model that reconstructs."""
    rng = np.random.default_rng(0)
    return {
        INPUT: rng.integers(0, 256, (num, 8, 8, 1), dtype=np.uint8),
        "embedding": clustered(num),
        "latent": rng.standard_normal((num, 3), np.float32),
        "latent_scale": rng.uniform(0.1, 1, (num, 3)).astype(np.float32),
        "reconstruction": rng.random((num, 8, 8, 1), np.float32),
    }


def test_the_score_of_the_statistics_is_their_mahalanobis_distance() -> None:
    tensors = generated(400)
    inputs = [torch.from_numpy(tensors[name]) for name in StatisticsMahalanobis.inputs]
    s = statistics(*inputs).numpy().astype(np.float64)
    z = (s - s.mean(axis=0)) / s.std(axis=0)
    oracle = LedoitWolf().fit(z)
    expected = [mahalanobis(row, oracle.location_, oracle.precision_) for row in z[:50]]
    got = StatisticsMahalanobis.fit(tensors)(*inputs).numpy()
    np.testing.assert_allclose(got[:50], expected, rtol=1e-3)


def test_fusion_is_its_formula_at_the_knots_and_near_it_between() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((1999, 3)).astype(np.float32)
    fusion, ranks = Fusion(reference), knots(1999)
    assert ranks[:11] == list(range(1, 12))
    assert (ranks[-1], len(ranks)) == (1999, len(fusion.knot_QK))
    for rows, exact in ((np.array(ranks) - 1, True), (np.arange(1999), False)):
        scores = -np.sort(-reference, axis=0)[rows]
        scores = np.stack([rng.permutation(scores[:, k]) for k in range(3)], axis=1)
        above = np.stack([(reference[:, k] > scores[:, k, None]).sum(axis=1) for k in range(3)], axis=1)
        p = ((above + 1) / 2000).clip(max=LARGEST_P)
        got = fusion(torch.from_numpy(scores)).numpy()
        tolerance = 1e-3 if exact else 0.11
        np.testing.assert_allclose(got[:, 1], -np.log(p.min(axis=1)), rtol=tolerance, atol=tolerance)
        if exact:
            expected = np.arcsinh(np.tan(np.pi * (0.5 - p)).mean(axis=1))
            np.testing.assert_allclose(got[:, 0], expected, rtol=1e-3, atol=1e-3)
    fine = torch.linspace(-2, 4, 2001)[:, None].repeat(1, 3)
    assert fusion(fine)[:, 1].diff().min() >= 0
    assert fusion(fine)[:, 1].diff().max() < 0.3


def test_a_fused_score_does_not_depend_on_the_batch_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    fusion, rows = Fusion(rng.standard_normal((1999, 5))), torch.randn(64, 5)
    together = fusion(rows)
    for alone in (fusion(rows[3:4]), fusion(rows[3:10])[:1]):
        assert torch.equal(alone[0], together[3])


def test_beyond_the_reference_rows_scores_keep_their_order() -> None:
    reference = np.random.default_rng(0).standard_normal((199, 2)).astype(np.float32)
    far = np.stack([np.linspace(3, 9, 20), np.zeros(20)], axis=1).astype(np.float32)
    assert (np.diff(Fusion(reference)(torch.from_numpy(far)).numpy(), axis=0) > 0).all()
    farthest = Fusion(reference)(torch.tensor([[1e9, 1e9], [float("nan"), 0.0]])).numpy()
    assert np.isfinite(farthest[0]).all()
    assert np.isnan(farthest[1]).all()


def test_constant_scores_can_be_fused() -> None:
    fused = Fusion(np.zeros((50, 2), np.float32))(torch.tensor([[0.0, 0.0], [0.1, 0.0]])).numpy()
    assert np.isfinite(fused).all()
    assert (fused[1] > fused[0]).all()
    with pytest.raises(ValueError, match="got 1 scores that are not finite"):
        Fusion(np.array([[0.0], [np.nan]]))


class FakeDiscriminator(nn.Module):
    def forward(self, x_BCHW: torch.Tensor, z_BL: torch.Tensor) -> Any:
        from training.networks.adversarial import Scores

        score = x_BCHW.mean(dim=(1, 2, 3)) + z_BL.sum(dim=1)
        return Scores(score * 0, score * 0, score)


def test_a_joint_discriminator_is_a_detector_of_its_model() -> None:
    model = nn.Module()
    model.discriminator = FakeDiscriminator()
    tensors = generated(200)
    scorer = Scorer.fit(model, tensors)
    assert scorer.names[-1] == JointDiscriminator.name
    expected = -(tensors[INPUT] / 255).mean(axis=(1, 2, 3)) - tensors["latent"].sum(axis=1)
    np.testing.assert_allclose(scorer.scores(tensors)[:, -1], expected, rtol=1e-4, atol=1e-4)


def test_the_exported_scorer_returns_what_its_detectors_return(tmp_path: Path) -> None:
    tensors = generated(400)
    scorer = Scorer.fit(nn.Module(), tensors)
    assert scorer.names[:3] == ("cauchy", "bonferroni", "statistics_mahalanobis")
    assert len(scorer.names) == len(scorer.methods) == len(set(scorer.names))
    example = {name: torch.from_numpy(tensors[name][:2]) for name in scorer.inputs}
    graph = export_graph(scorer, example, ["scores"], tmp_path / "scorer.onnx")
    session = GraphRunner(tmp_path, [graph]).sessions["scorer.onnx"]
    for rows in (slice(0, 1), slice(3, 10), slice(0, 400)):
        (got,) = session.run(["scores"], {name: tensors[name][rows] for name in scorer.inputs})
        np.testing.assert_allclose(got, scorer.scores(tensors)[rows], rtol=1e-4, atol=1e-4)


def test_a_row_of_zeros_has_a_finite_score_through_onnx_too(tmp_path: Path) -> None:
    rows = np.maximum(clustered(300), 0)
    rows[3] = 0
    scorer = Scorer.fit(nn.Module(), {"embedding": rows})
    graph = export_graph(scorer, {"embedding": torch.from_numpy(rows[:2])}, ["scores"], tmp_path / "scorer.onnx")
    session = GraphRunner(tmp_path, [graph]).sessions["scorer.onnx"]
    (got,) = session.run(["scores"], {"embedding": rows})
    np.testing.assert_allclose(got, scorer.scores({"embedding": rows}), rtol=1e-4, atol=1e-4)
    assert np.isfinite(got).all()


def test_statistics_of_nothing_are_finite_through_onnx_too(tmp_path: Path) -> None:
    tensors = generated(400)
    detector = StatisticsMahalanobis.fit(tensors)
    for name in ("reconstruction", "latent"):
        tensors[name][0] = 0
    tensors[INPUT][0] = 0
    tensors["latent_scale"][0] = 0
    example = {name: torch.from_numpy(tensors[name][:2]) for name in detector.inputs}
    graph = export_graph(detector, example, ["scores"], tmp_path / "scorer.onnx")
    session = GraphRunner(tmp_path, [graph]).sessions["scorer.onnx"]
    (got,) = session.run(["scores"], {name: tensors[name] for name in detector.inputs})
    assert np.isfinite(got).all()


def test_the_exported_magnitude_of_a_row_is_the_same_in_any_batch(tmp_path: Path) -> None:
    rows = np.maximum(np.random.default_rng(0).standard_normal((97, 1021)), 0).astype(np.float32)
    detector = Magnitude.fit({"embedding": rows})
    graph = export_graph(detector, {"embedding": torch.from_numpy(rows[:2])}, ["scores"], tmp_path / "scorer.onnx")
    session = GraphRunner(tmp_path, [graph]).sessions["scorer.onnx"]
    (together,) = session.run(["scores"], {"embedding": rows})
    for start, stop in ((0, 1), (5, 6), (40, 97), (96, 97)):
        (got,) = session.run(["scores"], {"embedding": rows[start:stop]})
        np.testing.assert_array_equal(got, together[start:stop])


def test_reference_rows_are_not_those_of_the_fit() -> None:
    """A bank that held its own references would find each of them at a distance of nothing."""
    scorer = Scorer.fit(nn.Module(), {"embedding": clustered(500)})
    assert scorer.fusion is not None
    knn = scorer.names.index("knn") - 2
    assert scorer.fusion.knot_QK[:, knn].min() > 1e-5
    assert scorer.fusion.num_rows == 100


def test_units_are_of_length_one() -> None:
    assert torch.allclose(unit(torch.randn(5, 3)).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("named", [False, True])
def test_of_what_the_reference_rows_are_of_nothing_is_fitted_on(named: bool) -> None:
    """Every row six times: if copies were parted, the fifth neighbour of each reference row would be itself."""
    copies = np.repeat(np.arange(300), K + 1)
    rows = clustered(300)[copies]
    values = np.random.default_rng(0).integers(0, 256, (len(copies), 4, 4, 1), dtype=np.uint8)
    tensors = {INPUT: values if named else values[copies], "embedding": rows}
    scorer = Scorer.fit(nn.Module(), tensors, copies if named else None)
    fusion: Any = scorer.fusion
    assert fusion.num_rows == 60
    column = scorer.names.index("knn") - 2
    assert fusion.knot_QK[:, column].median() > 1e-4


def test_where_hardly_any_two_rows_differ_there_are_reference_rows_all_the_same() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)[np.arange(50) % 3]
    fusion: Any = Scorer.fit(nn.Module(), {INPUT: values, "embedding": clustered(50)}).fusion
    assert fusion.num_rows == 10
