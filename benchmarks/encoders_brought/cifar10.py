"""CIFAR-10 by a frozen MobileNetV2 of ImageNet: what an imported encoder is worth, measured through the server.

    python -m benchmarks.encoders_brought.weights /tmp/weights
    python -m benchmarks.encoders_brought.cifar10 --weights /tmp/weights/mobilenetv2_features.pth --work build/brought

Images are enlarged to 96 x 96. Two bundles are imported, `stages` (blocks 13, 16, 17 and 18 side by side) and `block17`
with `--data cifar10[label=0] --deciding knn`. The server embeds all 60,000 images by the first and some by the second:
these must be its columns, and the scores that it serves must be those of the scorer that is fitted here for class 0.

- linear probe: on what torchvision's classifier takes (block 18) and on all stages, with 10,000 labels and with all of
  the training split. Its L2 is chosen on 10,000 rows.
- one class against nine: for each class a scorer is fitted on the embeddings of its training images alone, as an import
  of `cifar10[label=K]` does, and scores test images. `knn` was named beforehand as the detector that decides
  (`--deciding knn`): nearest neighbours of frozen features are the usual choice. The fusion stands beside it.

A quarter of an hour on two cores; embeddings are kept in the work folder, and taken from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from benchmarks.encoders_brought.mobilenet import STAGES, WEIGHTS
from benchmarks.processes.served import ServedProcess
from export.detectors import Scorer
from latentserve import Client, records
from latentserve.bundle import MANIFEST
from latentserve.inputs import INPUT
from training.data import Data, Rows, load_data
from training.evaluation.probes import choose_inverse_l2, linear_probe_accuracy
from training.options import check_options

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "encoders_brought.json"
IMAGE_SIZE, SEED = 96, 0
FEW_LABELS, ONE_CLASS_TEST, CHECKED = 10_000, 5_000, 256
ROWS_AT_ONCE, ROWS_DECODED = 64, 1000
SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Options:
    """Measures MobileNetV2 on CIFAR-10.

    Attributes:
        weights: file of `benchmarks.encoders_brought.weights`.
        work: folder of bundles and embeddings.
        record: keep the figures in docs/results/encoders_brought.json.
        table: print what was recorded, and do nothing else.
    """

    weights: Path = Path("/tmp/weights/mobilenetv2_features.pth")
    work: Path = Path("build/brought")
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        linear: accuracy of the linear probe, by features and number of labels.
        one_class: mean AUROC of ten classes, by detector.
        by_class: AUROC of `knn`, class by class.
        num_train: training rows.
        num_test: test rows of the probe.
        block17_error: largest difference of `block17`'s embeddings to those columns of `stages`.
        score_error: largest difference of the scores that it serves to those of the scorer fitted here.
    """

    linear: dict[str, float]
    one_class: dict[str, float]
    by_class: tuple[float, ...]
    num_train: int
    num_test: int
    block17_error: float
    score_error: float


@dataclass(frozen=True)
class Split:
    """What the server makes of a split's images.

    Attributes:
        values: of the first rows, those that scores are taken of.
        embedding_ND: of all rows.
        labels: of all rows.
    """

    values: Any
    embedding_ND: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What detectors take of some rows; decoded some at a time."""
        parts = [np.asarray(self.values[part]) for part in np.array_split(rows, 1 + len(rows) // ROWS_DECODED)]
        return {INPUT: np.concatenate(parts), "embedding": self.columns(17)[rows]}

    def columns(self, block: int) -> NDArray[np.float32]:
        """The embedding of one block, [N, D]."""
        start = sum(channels for earlier, channels in STAGES.items() if earlier < block)
        return np.ascontiguousarray(self.embedding_ND[:, start : start + STAGES[block]])


@dataclass(frozen=True)
class Served:
    """What the server makes of the first test rows by `block17`."""

    embedding_ND: NDArray[np.float32]
    detectors: tuple[str, ...]
    scores_NK: NDArray[np.float32]

    def errors(self, test: Split, scorer: Scorer) -> tuple[float, float]:
        """Largest differences to the columns of `stages`, and to the scores of the scorer of class 0."""
        num = len(self.embedding_ND)
        own_ND = test.columns(17)[:num]
        expected_NK = scorer.scores(test.tensors(np.arange(num)))
        order = [scorer.names.index(name) for name in self.detectors]
        found = np.abs(own_ND - self.embedding_ND).max(), np.abs(expected_NK[:, order] - self.scores_NK).max()
        return float(found[0]), float(found[1])


def main(options: Options) -> int:
    """Measures, or prints what was; returns the exit status."""
    check_options(options)
    if options.table:
        print(table(records.read(Figures, RECORD)))
        return 0
    found = measure(options)
    print(table(found))
    if options.record:
        records.write(found, RECORD)
    return 0


def measure(options: Options) -> Figures:
    """Imports, serves, embeds, probes."""
    data = load_data("cifar10", IMAGE_SIZE, SEED)
    imported(options, "stages", "digits")
    imported(options, "block17", "cifar10[label=0]")
    train, test, served = embedded(options, data)
    print("linear probes", file=sys.stderr)
    linear = dict(probes(train, test))
    print("one class against nine", file=sys.stderr)
    fitted = np.arange(len(train)) < len(data.train)  # an import keeps the others for calibration
    scorers = [scorer_of(train, fitted & (train.labels == label)) for label in range(10)]
    errors = served.errors(test, scorers[0])
    by_class = [one_class(test, scorer, label) for label, scorer in enumerate(scorers)]
    means = {name: float(np.mean([one[name] for one in by_class])) for name in by_class[0]}
    knn = tuple(one["knn"] for one in by_class)
    return Figures(linear, means, knn, len(train), len(test), *errors)


def imported(options: Options, name: str, data: str) -> None:
    """One bundle, if it is not there."""
    models = options.work / "models"
    if any((models / name).glob(f"[0-9]*/{MANIFEST}")):  # not what an import that was killed left
        return
    source = f"python:benchmarks.encoders_brought.mobilenet:{name}"
    normal = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")
    size = ("--image-size", str(IMAGE_SIZE), "--resize", "stretch")
    command = [sys.executable, "-m", "export", "import", source, "--data", data, "--to", str(models)]
    command += ["--name", name, "--report", "none", "--deciding", "knn", *size, *normal]
    subprocess.run(command, check=True, env=os.environ | {WEIGHTS: str(options.weights.resolve())})


def embedded(options: Options, data: Data) -> tuple[Split, Split, Served]:
    """Training and test split by the server, and what it makes of some rows by `block17`."""
    with ServedProcess(options.work / "models", options.work / "server.log") as server, Client(server.target) as client:
        kept = {name: _embedded(client, options.work, name, getattr(data, name)) for name in SPLITS}
        some = np.ascontiguousarray(data.test.values[:CHECKED])
        scores = client.score(some, model="block17")
        served = Served(client.embed(some, model="block17"), scores.detectors, scores.scores)
    both = (data.train, data.calibration)  # together CIFAR-10's own training split
    train = np.concatenate([kept["train"], kept["calibration"]])
    labels = np.concatenate([_labels(rows) for rows in both])
    return Split(data.train.values, train, labels), Split(data.test.values, kept["test"], _labels(data.test)), served


def _labels(rows: Rows) -> NDArray[np.int64]:
    assert rows.labels_N is not None
    return rows.labels_N


def _embedded(client: Client, work: Path, split: str, rows: Rows) -> NDArray[np.float32]:
    """By `stages`, kept in a file."""
    file = work / f"{split}.npy"
    if not file.exists():
        np.save(file, np.concatenate([*_parts(client, rows.values)]))
    found: NDArray[np.float32] = np.load(file)
    return found


def _parts(client: Client, values: Any) -> Iterator[NDArray[np.float32]]:
    for start in tqdm(range(0, len(values), ROWS_AT_ONCE), unit_scale=ROWS_AT_ONCE, unit=" images"):
        yield client.embed(np.ascontiguousarray(values[start : start + ROWS_AT_ONCE]), model="stages")


def probes(train: Split, test: Split) -> Iterator[tuple[str, float]]:
    """Accuracies, by features and labels."""
    order = np.random.default_rng(SEED).permutation(len(train))
    features = {"block 18": (train.columns(18), test.columns(18)), "stages": (train.embedding_ND, test.embedding_ND)}
    for name, (train_ND, test_ND) in features.items():
        few = order[:FEW_LABELS]
        scaled_ND = (train_ND[few] - train_ND[few].mean(axis=0)) / (train_ND[few].std(axis=0) + 1e-8)
        inverse_l2 = choose_inverse_l2(scaled_ND, train.labels[few])
        for rows in (few, order):
            accuracy = linear_probe_accuracy(train_ND[rows], train.labels[rows], test_ND, test.labels, inverse_l2)
            print(f"{name}, {len(rows)} labels: {accuracy:.4f}", file=sys.stderr, flush=True)
            yield f"{name}, {len(rows):,} labels", accuracy


def scorer_of(train: Split, chosen_N: NDArray[np.bool_]) -> Scorer:
    """Detectors that are fitted on some training rows, by block 17."""
    return Scorer.fit(None, train.tensors(np.flatnonzero(chosen_N)))


def one_class(test: Split, scorer: Scorer, label: int) -> dict[str, float]:
    """AUROC of each detector: test images of the class against those of the nine others."""
    some = np.sort(np.random.default_rng(SEED).permutation(len(test))[:ONE_CLASS_TEST])
    scores_NK = scorer.scores(test.tensors(some))
    others_N = test.labels[some] != label
    found = {name: float(roc_auc_score(others_N, scores_NK[:, k])) for k, name in enumerate(scorer.names)}
    print(f"class {label}: knn {found['knn']:.4f}, cauchy {found['cauchy']:.4f}", file=sys.stderr, flush=True)
    return found


def table(found: Figures) -> str:
    """As Markdown."""
    lines = ["| linear probe on | accuracy |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.4f} |" for name, value in found.linear.items()]
    lines += ["", "| one class against nine, block 17 | mean AUROC |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.4f} |" for name, value in found.one_class.items()]
    lines += [
        "",
        f"`block17` served: embeddings at most {found.block17_error:.2g} off those columns of `stages`, scores at",
    ]
    lines += [f"{found.score_error:.2g} off those of the scorer fitted here."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
