"""k-means of the features of all rows, and an order of rows in which every cluster comes equally often.

Features are whitened first: without it a few directions of large variance would decide alone (Caron et al., 2018).

    x~ = W (x - m),  W = L^(-1/2) V'       m: mean, V, L: the largest eigenvectors and eigenvalues of the covariance
    x  = x~ / |x~|

Everything is done in parts of the rows, so that beside the features no table of rows by clusters lies in memory, and
by products of matrices, which give the same bits whenever they are given the same.

Shape legend: N rows, D feature, P principal components, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NUMBERS_AT_ONCE = 2**24
LEAST_VARIANCE = 1e-6
"""Share of the mean eigenvalue that is added to each: features that never move have none to divide by."""
SPLIT = 0.01
"""How far the centres of a cluster that is split are moved apart, in deviations of all numbers."""


def whitened(x_ND: Tensor, dim: int) -> Tensor:
    """The first principal components of the rows, of equal variance and then of length 1, [N, min(P, D)]."""
    at_once = max(1, NUMBERS_AT_ONCE // x_ND.shape[1])
    mean_D = x_ND.mean(dim=0, dtype=torch.float64)
    covariance_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64, device=x_ND.device)
    for part_ND in torch.split(x_ND, at_once):
        centred_ND = part_ND.to(torch.float64) - mean_D
        covariance_DD += centred_ND.T @ centred_ND / len(x_ND)
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)  # in rising order
    least = LEAST_VARIANCE * values_D.clamp_min(0).mean() + torch.finfo(x_ND.dtype).tiny
    scale_P = (values_D.clamp_min(0) + least).rsqrt()[-dim:].flip(0)
    whiten_DP = (vectors_DD[:, -dim:].flip(1) * scale_P).to(x_ND.dtype)
    mean_D = mean_D.to(x_ND.dtype)
    return torch.cat([F.normalize((part_ND - mean_D) @ whiten_DP, dim=1) for part_ND in torch.split(x_ND, at_once)])


def kmeans(x_NP: Tensor, num_clusters: int, iterations: int, generator: torch.Generator) -> Tensor:
    """The cluster of each row, int64 [N], by Lloyd's algorithm from rows that are drawn; K is at most N."""
    drawn_K = torch.randperm(len(x_NP), generator=generator)[:num_clusters]
    return lloyd(x_NP, x_NP[drawn_K.to(x_NP.device)], iterations, generator)


def lloyd(x_NP: Tensor, centres_KP: Tensor, iterations: int, generator: torch.Generator) -> Tensor:
    """The nearest centre of each row, once centres have moved to the means of their rows so many times.

    A centre that nothing is nearest to is put beside that of the largest cluster, on the other side of noise: the two
    part its rows. Source: faiss and Caron et al., section 3.3.
    """
    labels_N = nearest(x_NP, centres_KP)
    for _ in range(iterations):
        means_KP, counts_K = means(x_NP, labels_N, len(centres_KP))
        centres_KP = _with_empty_split(means_KP, counts_K, SPLIT * x_NP.std(), generator)
        before_N, labels_N = labels_N, nearest(x_NP, centres_KP)
        if torch.equal(before_N, labels_N):
            break
    return labels_N


def nearest(x_NP: Tensor, centres_KP: Tensor) -> Tensor:
    """Which centre is nearest to each row, int64 [N]."""
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2, of which the first is the same for all centres
    squared_K = centres_KP.square().sum(dim=1)
    parts = torch.split(x_NP, max(1, NUMBERS_AT_ONCE // len(centres_KP)))
    return torch.cat([torch.addmm(squared_K, part_NP, centres_KP.T, alpha=-2).argmin(dim=1) for part_NP in parts])


def means(x_NP: Tensor, labels_N: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """The mean of each cluster's rows [K, P], 0 where it has none, and how many it has, int64 [K]."""
    at_once = max(1, NUMBERS_AT_ONCE // num_clusters)
    sums_KP = x_NP.new_zeros(num_clusters, x_NP.shape[1])
    counts_K = labels_N.new_zeros(num_clusters)
    for part_NP, of_part_N in zip(torch.split(x_NP, at_once), torch.split(labels_N, at_once), strict=True):
        belongs_NK = F.one_hot(of_part_N, num_clusters)
        sums_KP += belongs_NK.to(x_NP.dtype).T @ part_NP
        counts_K += belongs_NK.sum(dim=0)
    return sums_KP / counts_K.clamp_min(1)[:, None], counts_K


def _with_empty_split(means_KP: Tensor, counts_K: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    counts_K = counts_K.clone()
    for empty in (counts_K == 0).nonzero()[:, 0].tolist():
        largest = int(counts_K.argmax())
        apart_P = noise * torch.randn(means_KP.shape[1], generator=generator).to(means_KP)
        means_KP[empty] = means_KP[largest] + apart_P
        means_KP[largest] -= apart_P
        counts_K[empty] = counts_K[largest] // 2
        counts_K[largest] -= counts_K[empty]
    return means_KP


def balanced_order(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """N rows in an order in which clusters come equally often, int64 [N], on the CPU.

    Of a cluster that is larger than its share some rows are left out, of a smaller one some come several times. Source:
    Caron et al., section 3.3: else a network that puts everything into the largest cluster has little to lose.
    """
    labels_N = labels_N.cpu()
    by_cluster = torch.split(labels_N.argsort(stable=True), labels_N.bincount().tolist())
    clusters = [rows for rows in by_cluster if len(rows)]
    share = -(-len(labels_N) // len(clusters))
    taken = [rows[_drawn(len(rows), share, generator)] for rows in clusters]
    order = torch.cat(taken)
    return order[torch.randperm(len(order), generator=generator)[: len(labels_N)]]


def _drawn(num_rows: int, share: int, generator: torch.Generator) -> Tensor:
    """Which of a cluster's rows are taken: none twice where there are enough."""
    if num_rows >= share:
        return torch.randperm(num_rows, generator=generator)[:share]
    return torch.randint(num_rows, (share,), generator=generator)
