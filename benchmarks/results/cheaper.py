"""What detectors lose with fewer products: AUROC of cheaper variants beside today's, on the embeddings of a run.

    python -m benchmarks.results.cheaper RUN [RUN...] [--rows 3000]     five minutes for MNIST on two cores

Most of what a score costs are products with matrices (ONNX Runtime's profiler says so): the whitening of embeddings and
inputs, and the banks of three detectors. Variants: Mahalanobis distances in the leading directions of the covariance,
all others together as one with their harmonic mean as variance; banks of fewer rows or fewer directions. `products` are
multiplications a row. Test rows against sets that are made of them; nothing is exported.

Shape legend: N rows, D features, P directions, K clusters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from export.detectors import neighbours
from export.detectors.inputs import EdgeNeighbours, InputMahalanobis, InputNeighbours
from export.detectors.mahalanobis import NUM_CLUSTERS, ClusterMahalanobis, Mahalanobis, shrunk_covariance, unit
from export.detectors.neighbours import Neighbours
from export.detectors.scorer import draw
from latentserve.inputs import INPUT
from training.data.rows import Values
from training.evaluation.ood_sets import known_sets, ood_rows
from training.evaluation.separation import auroc
from training.preprocessing import floats_from_rows
from training.running.run import load_model, open_run

AT_ONCE = 500
RANKS = (32, 64, 128)
BANKS = ((5000, 128), (5000, 64), (5000, 32), (2000, 128), (2000, 64))
Features = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Compares detectors.

    Attributes:
        runs: folders of finished runs on images.
        rows: test rows, and as many of each set.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    rows: int = 3000


@dataclass(frozen=True)
class Shown:
    """Rows as detectors see them: the input, and what the encoder makes of it."""

    rows: Values
    embedding_ND: Features


@dataclass(frozen=True)
class Variant:
    """A detector: its name, the multiplications it takes for a row, and scores of rows."""

    name: str
    products: int
    scores: Callable[[Shown], NDArray[Any]]


class Leading:
    """Mahalanobis distances by P directions: sqrt(sum_p (u_p x)^2 / l_p + |x - U U^T x|^2 / l'), l' of all others."""

    def __init__(self, x_ND: Features, num: int) -> None:
        self.mean_D = x_ND.mean(axis=0)
        covariance_DD, _ = shrunk_covariance([x_ND - self.mean_D])
        variance_D, directions_DD = np.linalg.eigh(covariance_DD)  # in ascending order
        self.directions_DP, self.variance_P = directions_DD[:, -num:], variance_D[-num:]
        self.other = 1 / np.mean(1 / variance_D[:-num])

    def __call__(self, centred_ND: Features) -> Features:
        """Distances [N] of rows from which a centre has been taken away."""
        inside_NP = centred_ND @ self.directions_DP
        outside_N = np.maximum(np.square(centred_ND).sum(axis=1) - np.square(inside_NP).sum(axis=1), 0)
        distance_N: Features = np.sqrt((np.square(inside_NP) / self.variance_P).sum(axis=1) + outside_N / self.other)
        return distance_N


def main(options: Options) -> int:
    """Prints a table for each run; returns the exit status."""
    if not options.runs:
        print("error: runs: got none, expected folders of finished runs", file=sys.stderr)
        return 2
    for folder in options.runs:
        compare(folder, options.rows)
    return 0


def compare(folder: Path, num_rows: int) -> None:
    """Prints the table of one run, line by line as they are found."""
    run, _ = open_run(folder)
    data, model = run.load_data(), load_model(folder, run)

    def shown(rows: Values) -> Shown:
        with torch.no_grad():
            parts = [model.encode(floats_from_rows(torch.from_numpy(part))).embedding for part in some(rows)]
        return Shown(rows, torch.cat(parts).double().numpy())

    test = np.asarray(data.test.values[:num_rows])
    sets = {name: shown(ood_rows(name, test)) for name in known_sets(test)}
    usual, train = shown(test), shown(np.asarray(data.train.values[draw(len(data.train), None).fitted]))
    print(f"\n{run.method} on {run.data}, embeddings of {usual.embedding_ND.shape[1]}\n")
    print(f"| detector | products | {' | '.join(sets)} |\n| --- | ---: |{' ---: |' * len(sets)}")
    for variant in variants(train):
        scores = variant.scores(usual)
        cells = " | ".join(f"{auroc(scores, variant.scores(other)):.4f}" for other in sets.values())
        print(f"| {variant.name} | {variant.products:,} | {cells} |", flush=True)


def variants(train: Shown) -> Iterator[Variant]:
    """Each kind of detector as it is, then its cheaper variants."""
    arrays = {INPUT: train.rows, "embedding": train.embedding_ND.astype(np.float32)}
    for kind, features in ((Mahalanobis, directions), (InputMahalanobis, inputs)):
        x_ND = features(train)
        yield Variant(kind.name, x_ND.shape[1] ** 2, partial(scores_of, kind.fit(arrays)))
        for num in ranks(x_ND):
            leading = Leading(x_ND, num)
            found = partial(distances, leading, features, leading.mean_D[None])
            yield Variant(f"- of {num} directions", x_ND.shape[1] * num, found)
    x_ND = directions(train)
    yield Variant(ClusterMahalanobis.name, x_ND.shape[1] ** 2, partial(scores_of, ClusterMahalanobis.fit(arrays)))
    clusters = KMeans(NUM_CLUSTERS, n_init=3, random_state=0).fit(x_ND)
    for num in ranks(x_ND):
        within = Leading(x_ND - clusters.cluster_centers_[clusters.labels_], num)
        found = partial(distances, within, directions, clusters.cluster_centers_)
        yield Variant(f"- of {num} directions", x_ND.shape[1] * num, found)
    for neighbour in (Neighbours, InputNeighbours, EdgeNeighbours):
        for rows, num in BANKS:
            with mock.patch.multiple(neighbours, BANK_ROWS=rows, BANK_DIM=num):
                fitted = neighbour.fit(arrays)
            yield Variant(f"{neighbour.name}, {rows:,} rows, {num} directions", rows * num, partial(scores_of, fitted))


def ranks(x_ND: Features) -> list[int]:
    """Numbers of directions that are fewer than there are."""
    return [num for num in RANKS if num < x_ND.shape[1]]


def directions(shown: Shown) -> Features:
    """Embeddings of unit length: what detectors of embeddings look at."""
    of_length_1: Features = unit(torch.from_numpy(shown.embedding_ND)).numpy()
    return of_length_1


def inputs(shown: Shown) -> Features:
    """What `input_mahalanobis` looks at."""
    parts = [InputMahalanobis.features(torch.from_numpy(part)) for part in some(shown.rows)]
    return torch.cat(parts).double().numpy()


def distances(leading: Leading, features: Callable[[Shown], Features], centres_KD: Features, shown: Shown) -> Features:
    """To the nearest of some centres, [N]."""
    x_ND = features(shown)
    found: Features = np.min([leading(x_ND - centre_D) for centre_D in centres_KD], axis=0)
    return found


def scores_of(detector: Any, shown: Shown) -> NDArray[Any]:
    """By a detector of ours, [N]."""
    array = shown.rows if detector.inputs == (INPUT,) else shown.embedding_ND.astype(np.float32)
    with torch.no_grad():
        return torch.cat([detector(torch.from_numpy(part)) for part in some(array)]).numpy()


def some(array: NDArray[Any]) -> list[NDArray[Any]]:
    """So many rows at a time."""
    return [array[start : start + AT_ONCE] for start in range(0, len(array), AT_ONCE)]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.cheaper")))
