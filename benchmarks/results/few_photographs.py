"""A folder of a few hundred photographs by three encoders: SimCLR, a pretrained network, and a student of that.

    python -m benchmarks.encoders_brought.weights build/weights
    python -m benchmarks.results.few_photographs --weights build/weights --record
    python -m benchmarks.results.few_photographs --table

The folder holds some images of CIFAR-10's training split as JPEG files, drawn by seed, without labels. SimCLR and the
student take 32 pixels and learn from nothing else; the pretrained network, MobileNetV2 of ImageNet, takes 96. What an
embedding is worth is measured on other images: `export evaluate --data cifar10` draws rows with labels that fit a
linear probe and rows of the test split. A SimCLR of one epoch stands beside them: chance is 0.1, and
random filters are worth more. What is done already in `--work` stays.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from benchmarks.results.commands import BLOCK_17, IMAGENET, command
from benchmarks.results.spread import mean_and_spread
from latentserve import records
from training.data import load_data
from training.evaluation.report import EvaluationReport
from training.options import check_options

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "few_photographs.json"
UNTRAINED, SIMCLR, TEACHER, STUDENT = "SimCLR, one epoch", "SimCLR", "MobileNetV2, ImageNet", "distilled from it"
NAMES = {"untrained": UNTRAINED, "simclr": SIMCLR, "mobilenet": TEACHER, "student": STUDENT}
VIEWS = ("--rotation-degrees", "0", "--shear", "0", "--elastic", "0", "--flip")
TRAINING = ("--batch-rows", "64", "--precision", "auto", "--warmup-steps", "20", *VIEWS)
SIMCLR_VIEWS = ("--crop-area-min", "0.2", "--jitter", "0.4", "--grey-probability", "0.2", "--temperature", "0.5")
STUDENT_VIEWS = ("--crop-area-min", "0.4", "--width", "24")
FIGURES = ("linear_probe_accuracy", "knn_20_accuracy")


@dataclass(frozen=True)
class Options:
    """Trains, imports, exports and evaluates.

    Attributes:
        weights: folder of MobileNetV2's weights, as `benchmarks.encoders_brought.weights` writes it.
        images: numbers of photographs.
        seeds: of the photographs and the trainings.
        epochs: of SimCLR and of the student.
        rows: with labels that fit a probe, and as many that are tested.
        work: folder of photographs, runs, models and figures; what is there already stays.
        record: keep the figures in docs/results/few_photographs.json.
        table: print what was recorded, and do nothing else.
    """

    weights: Path = Path("build/weights")
    images: tuple[int, ...] = (200, 500)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 200
    rows: int = 5000
    work: Path = Path("build/few")
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Figures:
    """One encoder, one folder.

    Attributes:
        encoder: which.
        images: photographs in the folder.
        seed: of them and of the training.
        linear: accuracy of the linear probe.
        knn: of the 20 nearest neighbours.
        seconds: training or import, and export.
    """

    encoder: str
    images: int
    seed: int
    linear: float
    knn: float
    seconds: float


@dataclass(frozen=True)
class Recorded:
    """What was measured.

    Attributes:
        rows: that fitted a probe, and as many that were tested.
        epochs: of what was trained here.
        figures: of each encoder, number and seed.
    """

    rows: int
    epochs: int
    figures: tuple[Figures, ...]


def main(options: Options) -> int:
    """Measures, or prints what was."""
    check_options(options)
    if options.table:
        print("\n".join(lines(records.read(Recorded, RECORD))))
        return 0
    found = [
        figures_of(short, num, seed, options) for num in options.images for seed in options.seeds for short in NAMES
    ]
    recorded = Recorded(options.rows, options.epochs, tuple(found))
    print("\n".join(lines(recorded)))
    if options.record:
        records.write(recorded, RECORD)
    return 0


def figures_of(short: str, num: int, seed: int, options: Options) -> Figures:
    """Makes the bundle if it is not there, and evaluates it."""
    work, name = options.work.resolve(), f"{short}-{num}-{seed}"
    report, took = work / f"{name}.json", work / f"{name}.seconds"
    if not took.exists():
        started = time.monotonic()
        _make(short, photographs(work / f"photos-{num}-{seed}", num, seed), name, seed, options)
        took.write_text(f"{time.monotonic() - started:.0f}")
    if not report.exists():
        which = ("--data", "cifar10", "--rows", str(options.rows), "--parts", "probes", "--json", str(report))
        command("export", "evaluate", str(work / "models" / name / "1"), *which)
    by_name = {one.name: one.value for one in records.read(EvaluationReport, report).metrics}
    linear, knn = (round(by_name[figure], 4) for figure in FIGURES)
    return Figures(NAMES[short], num, seed, linear, knn, float(took.read_text()))


def _make(short: str, photos: Path, name: str, seed: int, options: Options) -> None:
    work = options.work.resolve()
    to, folder = ("--to", str(work / "models"), "--name", name, "--report", "none"), work / "runs" / name
    data = ("--data", f"folder:{photos}", "--seed", str(seed))
    if short == "mobilenet":
        command("export", "import", BLOCK_17, *data, "--image-size", "96", "--resize", "stretch", *IMAGENET, *to,
            weights=options.weights)  # fmt: skip
        return
    how: dict[str, tuple[str, ...]] = {
        "untrained": ("simclr", "--epochs", "1", *SIMCLR_VIEWS),
        "simclr": ("simclr", "--epochs", str(options.epochs), *SIMCLR_VIEWS),
        "student": ("distill", "--epochs", str(options.epochs), "--teacher",
                    str(work / "models" / name.replace("student", "mobilenet") / "1"), *STUDENT_VIEWS),
    }  # fmt: skip
    going_on = ("--resume",) if folder.exists() else ()
    command("training", *how[short], *data, "--image-size", "32", *TRAINING, "--run", str(folder), *going_on)
    command("export", str(folder), *to)


def photographs(folder: Path, num: int, seed: int) -> Path:
    """A folder of so many training images of CIFAR-10, as JPEG files of the best quality."""
    if not folder.exists():
        train = load_data("cifar10", None, 0).train
        new = folder.with_suffix(".new")
        new.mkdir(parents=True, exist_ok=True)
        for row in np.random.default_rng(seed).permutation(len(train))[:num].tolist():
            Image.fromarray(np.asarray(train.values[row])).save(new / f"{row:05d}.jpg", quality=95, subsampling=0)
        new.rename(folder)
    return folder


def lines(recorded: Recorded) -> list[str]:
    """The figures as Markdown: means over seeds and their standard deviation."""
    table = ["| photographs | encoder | linear probe | 20 neighbours | minutes |", "| ---: | --- | --- | --- | ---: |"]
    for num in dict.fromkeys(one.images for one in recorded.figures):
        for encoder in NAMES.values():
            some = [one for one in recorded.figures if (one.encoder, one.images) == (encoder, num)]
            if some:
                minutes = np.mean([one.seconds for one in some]) / 60
                cells = (
                    mean_and_spread([one.linear for one in some]),
                    mean_and_spread([one.knn for one in some]),
                    f"{minutes:.1f}",
                )
                table.append(f"| {num} | {encoder} | {' | '.join(cells)} |")
    seeds = sorted({one.seed for one in recorded.figures})
    said = (
        f"Seeds: {seeds}; {recorded.epochs} epochs; {recorded.rows:,} rows with labels fit a probe, as many are tested."
    )
    return [*table, "", said]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.few_photographs")))
