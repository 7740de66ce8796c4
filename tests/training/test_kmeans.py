from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch.nn import functional as F

from training import kmeans as ours
from training.kmeans import balanced_order, kmeans, lloyd, means, nearest, whitened


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(num: int = 300, dim: int = 5, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(num, dim)) + 4 * rng.integers(0, 3, (num, 1))).float()


@pytest.mark.parametrize("at_once", [50, ours.NUMBERS_AT_ONCE])
@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_lloyd_is_that_of_scikit_learn(iterations: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same centres, in parts or at once."""
    monkeypatch.setattr(ours, "NUMBERS_AT_ONCE", at_once)
    x = blobs()
    theirs = KMeans(7, init=x[:7].numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(x.numpy())
    got = lloyd(x, x[:7], iterations, drawn())
    if iterations == 100:  # with fewer scikit-learn labels by the centres before the last
        np.testing.assert_array_equal(got, theirs.labels_)
    centres, _ = means(x, lloyd(x, x[:7], iterations - 1, drawn()), 7)
    np.testing.assert_allclose(centres, theirs.cluster_centers_, atol=1e-4)


def test_whitened_features_are_the_whitened_components_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "NUMBERS_AT_ONCE", 100)
    x = blobs() * torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0]) + 2
    expected = F.normalize(torch.from_numpy(PCA(3, whiten=True).fit_transform(x.double().numpy())), dim=1).float()
    got = whitened(x, 3)
    signs = (got * expected).sum(dim=0).sign()  # a direction has no sign
    torch.testing.assert_close(got * signs, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(300))


def test_features_that_never_move_and_dimensions_that_are_not_there_make_no_nan() -> None:
    x = torch.cat([blobs(), torch.ones(300, 2)], dim=1)
    assert whitened(x, 99).shape == (300, 7)
    assert whitened(x, 99).isfinite().all()
    assert whitened(torch.ones(20, 3), 2).isfinite().all()
    few = whitened(blobs(3, 8), 8)  # fewer rows than dimensions
    assert few.isfinite().all()


def test_an_empty_cluster_takes_rows_of_the_largest() -> None:
    x = torch.cat([torch.randn(90, 2, generator=drawn()), 50 + torch.randn(10, 2, generator=drawn(1))])
    centres = torch.tensor([[0.0, 0.0], [50.0, 50.0], [999.0, 999.0], [-999.0, 999.0]])
    assert nearest(x, centres).unique().tolist() == [0, 1]
    counts = lloyd(x, centres, 20, drawn()).bincount(minlength=4)
    assert counts.min() > 0
    assert counts[1] == 10  # the small one is left as it is


def test_rows_that_are_all_alike_end_in_one_cluster_and_k_may_be_n() -> None:
    assert len(kmeans(torch.ones(30, 4), 5, 10, drawn()).unique()) == 1
    x = blobs(12)
    assert kmeans(x, 12, 10, drawn()).sort().values.tolist() == list(range(12))


def test_clusters_are_those_of_the_seed() -> None:
    x = torch.rand(200, 3, generator=drawn())
    assert torch.equal(kmeans(x, 9, 5, drawn(1)), kmeans(x, 9, 5, drawn(1)))
    assert not torch.equal(kmeans(x, 9, 5, drawn(1)), kmeans(x, 9, 5, drawn(2)))


def test_clusters_come_equally_often_and_no_row_twice_without_need() -> None:
    labels = torch.tensor([0] * 100 + [2] * 12 + [3] * 8)  # no row is in cluster 1
    order = balanced_order(labels, drawn())
    assert len(order) == len(labels)
    counts = labels[order].bincount(minlength=4).tolist()
    assert counts == [40, 0, 40, 40]
    large = order[labels[order] == 0]
    assert len(large.unique()) == len(large)
    assert not torch.equal(labels[order], labels[order].sort().values)
    assert torch.equal(order, balanced_order(labels, drawn()))
    assert sorted(balanced_order(torch.zeros(9, dtype=torch.long), drawn()).tolist()) == list(range(9))
