"""Magnetic tiles by three encoders: our own SimCLR, a pretrained network, and a student that learned from it.

    python -m benchmarks.encoders_brought.weights build/weights
    python -m benchmarks.results.tiles --weights build/weights --record
    python -m benchmarks.results.tiles --table

Every part of it is one of the project's own commands, as a user would type it: training, import, export, `ood` with
masks. Tiles were photographed several times, so `--group-by near` keeps nearly equal ones on one side of each split;
good tiles alone are trained on. Figures are the bundle's: AUROC of the score that decides, of the best other detector
(which nobody knows beforehand), flagged faults and flagged good tiles at 0.05, and of the anomaly map the AUROC over
pixels and AUPRO. What is done already in `--work` stays.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from benchmarks.results.commands import BLOCK_17, IMAGENET, command
from benchmarks.results.spread import mean_and_spread
from export.examination import Examination, Row
from latentserve import records
from training.data.source import given_folder

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "tiles.json"
KINDS = ("blowhole", "break", "crack", "fray", "uneven")
SIMCLR, TEACHER, STUDENT = "SimCLR", "MobileNetV2, ImageNet", "distilled from it"
NAMES = {"simclr": SIMCLR, "mobilenet": TEACHER, "student": STUDENT}
SIZE = ("--image-size", "96", "--group-by", "near")
VIEWS = ("--rotation-degrees", "0", "--shear", "0", "--elastic", "0", "--flip")
TRAINING = (*SIZE, "--batch-rows", "64", "--precision", "auto", "--warmup-steps", "20", *VIEWS)


@dataclass(frozen=True)
class Options:
    """Trains, imports, exports and examines.

    Attributes:
        weights: folder of MobileNetV2's weights, as `benchmarks.encoders_brought.weights` writes it.
        seeds: of trainings and splits.
        encoders: which; a student needs its teacher.
        work: folder of runs, models and figures; what is there already stays.
        record: keep the figures in docs/results/tiles.json.
        table: print what was recorded, and do nothing else.
    """

    weights: Path = Path("build/weights")
    seeds: tuple[int, ...] = (0, 1, 2)
    encoders: tuple[Literal["simclr", "mobilenet", "student"], ...] = ("simclr", "mobilenet", "student")
    work: Path = Path("build/tiles")
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Figures:
    """One encoder, one seed, one kind of fault.

    Attributes:
        encoder: which.
        seed: of its training and of the split.
        kind: of fault; empty: all.
        num_good: test tiles without a fault.
        auroc: of the score that decides.
        best: name of the best other detector.
        best_auroc: of it.
        flagged: share of the faults at 0.05.
        good_flagged: share of the good test tiles.
        pixel_auroc: of the anomaly map.
        aupro: of it.
    """

    encoder: str
    seed: int
    kind: str
    num_good: int
    auroc: float
    best: str
    best_auroc: float
    flagged: float
    good_flagged: float
    pixel_auroc: float
    aupro: float


@dataclass(frozen=True)
class Recorded:
    """What was measured.

    Attributes:
        figures: of each encoder, seed and kind.
        seconds: of each encoder and seed: training or embedding, export and detectors.
    """

    figures: tuple[Figures, ...]
    seconds: dict[str, float]


def main(options: Options) -> int:
    """Measures, or prints what was."""
    if options.table:
        print("\n".join(lines(records.read(Recorded, RECORD))))
        return 0
    found, seconds = [], {}
    for seed in options.seeds:
        for short in options.encoders:
            examination, took = examined(short, seed, options)
            found += figures_of(NAMES[short], seed, examination)
            seconds[f"{NAMES[short]}, seed {seed}"] = took
    recorded = Recorded(tuple(found), seconds)
    print("\n".join(lines(recorded)))
    if options.record:
        records.write(recorded, RECORD)
    return 0


def examined(short: str, seed: int, options: Options) -> tuple[Examination, float]:
    """Makes the bundle if it is not there, and examines it."""
    work = options.work.resolve()
    tiles, name = given_tiles(), f"{short}-{seed}"
    bundle, run, took = work / "models" / name / "1", work / "runs" / name, work / f"{name}.seconds"
    to = ("--to", str(work / "models"), "--name", name, "--report", "none")
    data = ("--data", f"folder:{tiles / 'free'}", "--seed", str(seed))
    if not bundle.exists():
        start = time.monotonic()
        if short == "mobilenet":
            made_for = (*data, *SIZE, "--resize", "stretch", *IMAGENET)
            command("export", "import", BLOCK_17, *made_for, *to, weights=options.weights)
        else:
            how = ("simclr", "--epochs", "15") if short == "simclr" else _student(work / "models" / f"mobilenet-{seed}")
            if not (run / "result.json").exists():
                command("training", *how, *data, *TRAINING, "--run", str(run), *(["--resume"] if run.exists() else []))
            command("export", str(run), *to)
        took.write_text(f"{time.monotonic() - start:.0f}")
    report = work / f"{name}.json"
    if not report.exists():
        faults = faults_in(work / "faults")
        command("export", "ood", str(bundle), "--against", f"folder:{faults}", "--masks", str(tiles / "masks"),
             "--json", str(report))  # fmt: skip
    return records.read(Examination, report), float(took.read_text())


def given_tiles() -> Path:
    """The folder of good and faulty tiles and their masks; without it a sentence ends the process."""
    given = given_folder()
    if given is None or not (given / "magnetic-tiles").is_dir():
        raise SystemExit(f"error: LATENTSERVE_DATA: got {given}, expected a folder that has magnetic-tiles")
    return (given / "magnetic-tiles").resolve()


def _student(teacher: Path) -> tuple[str, ...]:
    return "distill", "--epochs", "30", "--width", "24", "--teacher", str(teacher / "1")


def faults_in(folder: Path) -> Path:
    """Links to the five kinds: one set, whose classes are they."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        if not (folder / kind).exists():
            (folder / kind).symlink_to(given_tiles() / kind)
    return folder


def figures_of(encoder: str, seed: int, examination: Examination) -> list[Figures]:
    """Of each kind, and of all."""
    places = {one.kind: one for one in examination.places}
    found = []
    for kind in ("", *KINDS):
        of_kind: list[Row] = [row for row in examination.rows if row.kind == kind]
        decides, best = of_kind[0], max(of_kind[1:], key=lambda row: row.figures.auroc)
        found.append(
            Figures(
                encoder,
                seed,
                kind,
                examination.num_id,
                round(decides.figures.auroc, 4),
                best.detector,
                round(best.figures.auroc, 4),
                round(decides.share_flagged, 4),
                round(decides.id_flagged, 4),
                round(places[kind].pixel_auroc, 4),
                round(places[kind].aupro, 4),
            )
        )
    return found


def lines(recorded: Recorded) -> list[str]:
    """The figures as Markdown: means over seeds, and their standard deviation where there are several."""
    table = [
        "| encoder | faults | AUROC | best other detector | flagged | good tiles flagged | AUROC over pixels | AUPRO |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for encoder in dict.fromkeys(one.encoder for one in recorded.figures):
        for kind in ("", *KINDS):
            some = [one for one in recorded.figures if (one.encoder, one.kind) == (encoder, kind)]
            best = " ".join(sorted({one.best for one in some}))
            cells = [encoder, kind or "all", mean_and_spread([one.auroc for one in some])]
            cells += [f"{mean_and_spread([one.best_auroc for one in some])} {best}"]
            cells += [f"{np.mean([getattr(one, name) for one in some]):.1%}" for name in ("flagged", "good_flagged")]
            cells += [mean_and_spread([getattr(one, name) for one in some]) for name in ("pixel_auroc", "aupro")]
            table.append(f"| {' | '.join(cells)} |")
    seeds = sorted({one.seed for one in recorded.figures})
    good = sorted({one.num_good for one in recorded.figures})
    spent = ", ".join(f"{name} {_fewest_minutes(recorded, name):.1f}" for name in NAMES.values())
    return [
        *table,
        "",
        f"Seeds: {seeds}; good test tiles: {good}. Minutes of training or import and detectors, at least: {spent}.",
    ]


def _fewest_minutes(recorded: Recorded, encoder: str) -> float:
    of_encoder = [seconds for name, seconds in recorded.seconds.items() if name.startswith(f"{encoder}, seed")]
    return min(of_encoder, default=0.0) / 60


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.tiles")))
