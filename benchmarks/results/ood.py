"""Out-of-distribution detection over seeds and classes, through the exported graphs.

    python -m benchmarks.results.ood one_class_mnist           trains what is missing, examines, prints
    python -m benchmarks.results.ood one_class_mnist --record  and writes docs/results/ood/one_class_mnist.json
    python -m benchmarks.results.ood --table                   what is recorded, as Markdown

Encoders are those of a recipe (`benchmarks.results.reproduce`), trained on `data` where that differs from the recipe's;
every bundle is examined as `python -m export ood` does it. The figure is the AUROC of the detector that decides in that
bundle, which was settled on training rows alone; the best of the others is beside it, as what a choice on
out-of-distribution rows would have gained.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from benchmarks.results.recipes import RECIPES, Recipe, mean_and_deviation, read_recipe
from benchmarks.results.reproduce import bundle_of
from export.examination import Row, examine
from latentserve import records

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "ood"
CONTROL_LIMITS = (0.47, 0.53)


@dataclass(frozen=True)
class Suite:
    """Which encoders are evaluated on which sets.

    Attributes:
        recipe: of the encoders.
        against: as `python -m export ood` takes them.
        data: specs to train on, one encoder each; none for the recipe's own runs.
        epochs: of encoders that are not the recipe's own.
        seeds: of them.
        targets: AUROC by set, at least.
        bundle: one that is made before, as docs/guides/distill.md says, instead of a recipe's; its seed is 0.
    """

    recipe: str
    against: tuple[str, ...]
    data: tuple[str, ...] = ()
    epochs: int = 0
    seeds: tuple[int, ...] = ()
    targets: tuple[tuple[str, float], ...] = ()
    bundle: Path | None = None


IMAGES = ("horizontal_flip", "vertical_flip", "rotated_90", "shapes", "noise", "constant", "blends", "saved_again")
SUITES = {
    "mnist": Suite("cpc_mnist", IMAGES, targets=(("horizontal_flip", 0.85),)),
    "one_class_mnist": Suite(
        "cpc_mnist",
        ("others",),
        tuple(f"mnist[label={label}]" for label in range(10)),
        16,
        (0, 1, 2),
        (("others", 0.985),),
    ),
    "speakers_fsdd": Suite(
        "cpc_audio_fsdd", ("others", "reversed", "noise", "tone"), ("fsdd[group!=2]",), 35, (0, 1, 2)
    ),
    "cifar10": Suite("simclr_cifar10", ("mnist", *IMAGES), targets=(("mnist", 0.99),)),
    "cifar10_mobilenet": Suite("", ("mnist", *IMAGES), bundle=Path("build/teachers/mobilenetv2-96/1")),
}


@dataclass(frozen=True)
class Finding:
    """One encoder against one set.

    Attributes:
        data: it was trained on.
        seed: of it.
        against: the set.
        detector: that decides.
        auroc: of it.
        best_other: AUROC of the best of the others.
        share_flagged: of the set, at the bundle's alpha.
        id_flagged: share of the in-distribution test rows that is flagged.
    """

    data: str
    seed: int
    against: str
    detector: str
    auroc: float
    best_other: float
    share_flagged: float
    id_flagged: float


@dataclass(frozen=True)
class Recorded:
    """The findings of a suite."""

    suite: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Options:
    """Measures how well encoders detect out-of-distribution rows.

    Attributes:
        suite: name of the suite: mnist, one_class_mnist, speakers_fsdd, cifar10 or cifar10_mobilenet.
        record: write docs/results/ood/<suite>.json.
        table: print what is recorded, run nothing.
    """

    suite: Annotated[str, tyro.conf.Positional] = ""
    record: bool = False
    table: bool = False


def main(options: Options) -> int:
    """Prints the suite's table; returns 1 if the control does not stay near one half."""
    if options.table:
        print(table())
        return 0
    if options.suite not in SUITES:
        print(f"error: suite: got {options.suite!r}, expected one of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    found = Recorded(options.suite, tuple(findings(SUITES[options.suite])))
    print("\n".join(lines(found)))
    if options.record:
        RESULTS.mkdir(parents=True, exist_ok=True)
        records.write(found, RESULTS / f"{options.suite}.json")
    low, high = CONTROL_LIMITS
    return int(not all(low < one.auroc < high for one in found.findings if one.against == "saved_again"))


def findings(suite: Suite) -> Iterator[Finding]:
    """Trains what is not trained, exports what is not exported, examines all."""
    for data, seed, bundle in bundles(suite):
        examined, _ = examine(bundle, suite.against, seed=seed)
        for against in suite.against:
            yield _finding(data, seed, [row for row in examined.rows if row.against == against])


def bundles(suite: Suite) -> Iterator[tuple[str, int, Path]]:
    """Data, seed and folder of each."""
    if suite.bundle is not None:
        yield "cifar10", 0, suite.bundle
        return
    for name, recipe in encoders(suite):
        for seed in recipe.seeds:
            yield recipe.data, seed, bundle_of(name, recipe, seed)


def encoders(suite: Suite) -> Iterator[tuple[str, Recipe]]:
    """Names under build/recipes and what is trained there."""
    recipe = read_recipe(RECIPES / f"{suite.recipe}.toml")
    if not suite.data:
        yield suite.recipe, recipe
    for spec in suite.data:
        part = "-".join(word for word in spec.replace("!=", " not ").translate(str.maketrans("[]=,", "    ")).split())
        arguments = list(recipe.arguments)
        arguments[arguments.index("--epochs") + 1] = str(suite.epochs)
        yield f"{recipe.method}_{part}", replace(recipe, data=spec, arguments=tuple(arguments), seeds=suite.seeds)


def _finding(data: str, seed: int, rows: list[Row]) -> Finding:
    first, *others = rows
    best = max(row.figures.auroc for row in others)
    flagged = (first.share_flagged, first.id_flagged)
    return Finding(data, seed, first.against, first.detector, first.figures.auroc, best, *flagged)


def table() -> str:
    """What all suites recorded, as Markdown."""
    parts = [lines(records.read(Recorded, RESULTS / f"{name}.json")) for name in SUITES if recorded(name)]
    return "\n".join([*parts[0], *(line for part in parts[1:] for line in part[2:])]) if parts else ""


def recorded(name: str) -> bool:
    """Whether a suite has a record."""
    return (RESULTS / f"{name}.json").exists()


def lines(found: Recorded) -> list[str]:
    """A table with a row for each set: over seeds, and over the mean of a seed's encoders where there are several."""
    targets = dict(SUITES[found.suite].targets)
    rows = [
        "| suite | against | AUROC | standard deviation | best other detector | flagged | ID rows flagged | target |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for against in dict.fromkeys(one.against for one in found.findings):
        of_set = [one for one in found.findings if one.against == against]
        seeds = sorted({one.seed for one in of_set})
        means = tuple(float(np.mean([one.auroc for one in of_set if one.seed == seed])) for seed in seeds)
        mean, standard_deviation = mean_and_deviation(means)
        best, flagged, id_flagged = (
            np.mean([getattr(one, name) for one in of_set]) for name in ("best_other", "share_flagged", "id_flagged")
        )
        target = f"{targets[against]:g}{'' if mean >= targets[against] else ', missed'}" if against in targets else ""
        several = f"{standard_deviation:.4f}" if len(seeds) > 1 else "one seed"
        cells = (
            found.suite,
            against,
            f"{mean:.4f}",
            several,
            f"{best:.4f}",
            f"{flagged:.1%}",
            f"{id_flagged:.1%}",
            target,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.ood")))
