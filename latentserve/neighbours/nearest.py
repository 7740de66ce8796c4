"""The nearest rows to some queries, exactly: every row is compared, and a few thousand are in memory at once.

All is float64. Candidates of a block are found by one matrix product, |x - q|^2 = |x|^2 + |q|^2 - 2 x.q, whose
rounding error the margin covers; of them the distance is computed from differences, so that equal rows have equal
distances, a row has 0 to itself, and of equal distances the earlier row comes first: what is returned follows from the
rows alone.

Cosine distance is 1 - cos(x, q), computed as half the squared distance of the two unit vectors. A row of zeros has no
direction, and distance 1 to everything.

Shape legend: N rows, Q queries, D numbers of an embedding, K nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentserve.bulk.engines import ahead
from latentserve.bulk.rows import Place, Written, blocks
from latentserve.cpus import available_cpus
from latentserve.neighbours.table import Metric

MARGIN = 1e-12
"""Of squared distances, relative to the squares: float64 is wrong by D * 1.1e-16, 5e-13 at 4096 numbers."""


class Near(NamedTuple):
    """One of the nearest rows."""

    distance: float
    place: Place


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        nearest: of each query, the nearest first.
        num_rows: that were compared.
        num_failed: rows without an embedding.
    """

    nearest: list[list[Near]]
    num_rows: int
    num_failed: int


def search(
    of: Written, queries_QD: NDArray[Any], metric: Metric, count: int, without: Sequence[Place | None] = ()
) -> Found:
    """The `count` nearest rows of a job to each query; all where there are fewer.

    Args:
        of: the job.
        queries_QD: none of zeros where the metric is cosine.
        metric: by which.
        count: 1 or more.
        without: of each query the row that is itself, which is left out; None: it is none.

    Raises:
        InvalidInput: a part is broken.
    """
    queries = _directed(queries_QD.astype(np.float64), metric)
    best: list[list[Near]] = [[] for _ in queries]
    num_rows = num_failed = 0
    most = count + 1
    limits = np.full(len(queries), np.inf)

    def of_part(part: int) -> tuple[list[list[Near]], int, int]:
        return _of_part(of, part, queries, metric, most, limits)

    cpus = available_cpus()
    with ThreadPoolExecutor(cpus) as pool:
        for candidates, num, failed in ahead(pool, of_part, range(len(of.parts)), cpus):
            best = [sorted([*old, *new])[:most] for old, new in zip(best, candidates, strict=True)]
            num_rows, num_failed = num_rows + num, num_failed + failed
            limits[:] = [_limit(some, metric, most) for some in best]
    for query, own in enumerate(without):
        best[query] = [near for near in best[query] if near.place != own]
    return Found([some[:count] for some in best], num_rows, num_failed)


def _of_part(
    of: Written, part: int, queries_QD: NDArray[Any], metric: Metric, count: int, limits_Q: NDArray[np.float64]
) -> tuple[list[list[Near]], int, int]:
    best: list[list[Near]] = [[] for _ in queries_QD]
    num_rows = num_failed = 0
    for block in blocks(of, part):
        numbers = block.embeddings.astype(np.float64)
        num_rows, num_failed = num_rows + len(block.rows), num_failed + block.num_failed
        for query, number, distance in nearest(numbers, queries_QD, metric, count, limits_Q):
            best[query].append(Near(distance, Place(part, int(block.rows[number]))))
    return [sorted(some)[:count] for some in best], num_rows, num_failed


def nearest(
    rows_ND: NDArray[Any], queries_QD: NDArray[Any], metric: Metric, count: int, limits_Q: NDArray[np.float64]
) -> list[tuple[int, int, float]]:
    """Query, row and distance of the nearest rows, in no order.

    Args:
        rows_ND: float64.
        queries_QD: float64, of length 1 where the metric is cosine.
        metric: by which.
        count: of each query.
        limits_Q: squared distances; rows that are farther may be left out.
    """
    if not len(rows_ND):
        return []
    squares_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    approximate_QN, scale = queries_QD @ rows_ND.T, 1.0
    if metric == "cosine":
        approximate_QN /= np.sqrt(np.where(squares_N == 0, 1, squares_N))
        approximate_QN = 2 - 2 * approximate_QN
    else:
        of_queries_Q1 = np.einsum("qd,qd->q", queries_QD, queries_QD)[:, None]
        approximate_QN = squares_N + of_queries_Q1 - 2 * approximate_QN
        scale = float(squares_N.max() + of_queries_Q1.max())
    found = []
    for query, approximate_N in enumerate(approximate_QN):
        some = _candidates(approximate_N, count, limits_Q[query], 2 * MARGIN * scale)
        if not len(some):
            continue
        exact = distances(rows_ND[some], queries_QD[query], metric)
        order = np.lexsort((some, exact))[:count]
        found += [(query, int(some[at]), float(exact[at])) for at in order]
    return found


def distances(rows_ND: NDArray[Any], query_D: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Of each row to a query, of length 1 where the metric is cosine."""
    rows_ND = rows_ND.astype(np.float64)
    squared_N: NDArray[np.float64] = np.square(_directed(rows_ND, metric) - query_D).sum(axis=1)
    if metric == "euclidean":
        return np.sqrt(squared_N)
    return np.where(rows_ND.any(axis=1), squared_N / 2, 1.0)


def _directed(rows_ND: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Vectors of length 1, if the metric asks for directions alone."""
    if metric == "euclidean":
        return rows_ND
    lengths_N1 = np.sqrt(np.square(rows_ND).sum(axis=1, keepdims=True))
    return rows_ND / np.where(lengths_N1 == 0, 1, lengths_N1)


def _candidates(approximate_N: NDArray[np.float64], count: int, limit: float, margin: float) -> NDArray[np.int64]:
    """Rows that may be among the nearest: few, once a limit is known."""
    some = np.flatnonzero(approximate_N <= limit + margin)
    if len(some) <= count:
        return some
    last = np.partition(approximate_N[some], count - 1)[count - 1]
    near: NDArray[np.int64] = some[approximate_N[some] <= last + margin]
    return near


def _limit(best: list[Near], metric: Metric, count: int) -> float:
    """The squared distance, of vectors of length 1 where the metric is cosine, that a row must not exceed."""
    if len(best) < count:
        return np.inf
    last = best[-1].distance
    return last**2 if metric == "euclidean" else 2 * last
