"""Recipes and their records: reading them, the head of a recipe, the tables, the rows of the picture.

A recipe is training/recipes/<method>_<data>.toml (a variant's name ends in one more word): the method, the data, the
arguments, the seeds, the targets. What was recorded lies in docs/results/recipes/<name>.json; the head of the
recipe says the same in words.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.results.recipe_plot import Probed
from latentserve import records

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "training" / "recipes"
RECORDS = ROOT / "docs" / "results" / "recipes"
NOT_RECORDED = "# Not recorded yet: python -m benchmarks.results.reproduce NAME --record\n"
ACCURACY = "_accuracy"
SHARE = 0.99
SLACK = 0.002
"""What a figure may be off beside the band of the runs: three seeds that happen to agree say little of the fourth."""
SMALL_SLACK = 0.02  # of the mean, for figures that are no shares (nats)
ONE_RUN_SLACK = 0.01
"""For the figures of one run: their standard deviation is not known."""


@dataclass(frozen=True)
class Recipe:
    """What to train and what to expect.

    Attributes:
        method: of `python -m training`.
        data: its --data.
        arguments: the rest of its command line, without seed and run.
        seeds: of the recorded runs.
        targets: by figure, at least (at most for nats); 0: the figure has no target and is only recorded.
        minutes: target for the training of one seed, at most; None: no target.
    """

    method: str
    data: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: dict[str, float]
    minutes: float | None = None


@dataclass(frozen=True)
class Elsewhere:
    """The figures of one run under other conditions than the record's: another number of threads, another CPU.

    Attributes:
        seed: of the run.
        device: it ran on, with its instruction set.
        figures: by name.
        git_revision: of the code.
    """

    seed: int
    device: str
    figures: dict[str, float]
    git_revision: str


@dataclass(frozen=True)
class Recorded:
    """The figures of all seeds.

    Attributes:
        method: as in the recipe that was run, like the next three.
        data: see there.
        arguments: see there.
        seeds: see there.
        figures: by name, one value a seed.
        measured: by name, on what, and how if not through ONNX.
        untrained: by name, the same of the untrained network, where the baselines have the figure.
        seconds: of training, one value a seed.
        device: they ran on.
        git_revision: of the code.
        elsewhere: runs under other conditions.
    """

    method: str
    data: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    figures: dict[str, tuple[float, ...]]
    measured: dict[str, str]
    untrained: dict[str, tuple[float, ...]]
    seconds: tuple[float, ...]
    device: str
    git_revision: str
    elsewhere: tuple[Elsewhere, ...] = ()

    @property
    def threads(self) -> int:
        """That the record's runs had, or 0 where that is not known: on a GPU."""
        found = re.match(r"(\d+) (CPU )?threads?\b", self.device)
        return int(found[1]) if found else 0

    def all_of(self, figure: str) -> tuple[float, ...]:
        """A figure of every run, wherever it ran."""
        return (*self.figures[figure], *(run.figures[figure] for run in self.elsewhere))


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe. Raises RecordError if a key is missing, unknown or of another type."""
    return records.from_json(Recipe, tomllib.loads(path.read_text()))


def mean_and_deviation(values: tuple[float, ...]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; 0 for one seed."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def band(values: tuple[float, ...]) -> tuple[float, float]:
    """Middle and half width of where one more run's figure lies with a probability of 99 %, and some slack.

    Args:
        values: of runs that differ in seed or CPU. Rounding alone makes another run of the same seed: after some steps
            it is as far away as another seed's. So seeds and CPUs are one population, and the few of them that there
            are widen the band by Student's t.
    """
    mean, standard_deviation = mean_and_deviation(values)
    if len(values) == 1:
        slack = ONE_RUN_SLACK if mean <= 1 else SMALL_SLACK * mean
        return mean, slack
    num = len(values)
    wide = float(stats.t.ppf((1 + SHARE) / 2, num - 1)) * standard_deviation * (1 + 1 / num) ** 0.5
    return mean, wide + (SLACK if mean <= 1 else SMALL_SLACK * mean)


def head(name: str, recipe: Recipe, recorded: Recorded) -> str:
    """The comment a recipe opens with: result, time, hardware, command."""
    lines = []
    for figure, target in recipe.targets.items():
        mean, standard_deviation = mean_and_deviation(recorded.figures[figure])
        held = f" (target {against_target(figure, mean, target)})" if target else ""
        lines.append(f"# {figure}: {mean:.4f} +- {standard_deviation:.4f}{held}, {recorded.measured[figure]}")
    seeds = f"{len(recorded.seeds)} seeds" if len(recorded.seeds) > 1 else "one seed"
    lines.append(
        f"# {seeds}, last epoch, through ONNX unless said; {minutes_of(recipe, recorded)} on {recorded.device}"
    )
    lines.append(f"# make reproduce RECIPE={name}")
    return "\n".join(lines) + "\n"


def minutes_of(recipe: Recipe, recorded: Recorded) -> str:
    """How long a seed took, and whether the longest met the target."""
    mean, longest = np.mean(recorded.seconds) / 60, max(recorded.seconds) / 60
    if recipe.minutes is None:
        return f"{mean:.1f} min a run"
    missed = "" if longest <= recipe.minutes else ", missed"
    return f"{mean:.1f} min a run, {longest:.1f} at most (target {recipe.minutes:g}{missed})"


def against_target(figure: str, mean: float, target: float) -> str:
    """The target, and whether it was missed."""
    met = mean <= target if is_cost(figure) else mean >= target
    return f"{target:g}{'' if met else ', missed'}"


def is_cost(figure: str) -> bool:
    """Whether less is better."""
    return figure.endswith(("_nats", "_error", "_per_dim"))


def with_head(text: str, comment: str) -> str:
    """A recipe with another head."""
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return comment + "".join(lines)


def recorded_recipes() -> Iterator[tuple[str, Recipe, Recorded]]:
    """Name, recipe and record of all that were recorded, by name."""
    for path in sorted(RECORDS.glob("*.json")):
        yield path.stem, read_recipe(RECIPES / f"{path.stem}.toml"), records.read(Recorded, path)


def probed() -> Iterator[Probed]:
    """The accuracies among what was recorded."""
    for name, recipe, recorded in recorded_recipes():
        for figure, target in recipe.targets.items():
            if figure.endswith(ACCURACY):
                plain = figure.removesuffix(ACCURACY).replace("_", " ").replace("knn ", "kNN-")
                yield Probed(name, plain, recorded.figures[figure], recorded.untrained.get(figure, ()), target)


def table() -> str:
    """What all recipes recorded, as Markdown."""
    rows = [
        "| recipe | figure | mean | standard deviation | untrained | target | seeds | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, recipe, recorded in recorded_recipes():
        for figure, target in recipe.targets.items():
            mean, standard_deviation = mean_and_deviation(recorded.figures[figure])
            cells = (
                name,
                figure,
                f"{mean:.4f}",
                f"{standard_deviation:.4f}" if len(recorded.seeds) > 1 else "",
                f"{np.mean(recorded.untrained[figure]):.4f}" if figure in recorded.untrained else "",
                against_target(figure, mean, target) if target else "",
                str(len(recorded.seeds)),
                f"{np.mean(recorded.seconds) / 60:.1f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def table_of_repeats() -> str:
    """The figures of other threads and other CPUs beside the recorded ones, as Markdown."""
    rows = [
        "| recipe | figure | recorded (seeds) | on | elsewhere (seed) | on | allowed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, recipe, recorded in recorded_recipes():
        for figure in recipe.targets:
            mean, width = band(recorded.all_of(figure))
            by_device: dict[str, list[str]] = {}
            for run in recorded.elsewhere:
                by_device.setdefault(run.device, []).append(f"{run.figures[figure]:.4f} ({run.seed})")
            cells = (
                name,
                figure,
                ", ".join(f"{value:.4f}" for value in recorded.figures[figure]),
                recorded.device,
                "; ".join(", ".join(values) for values in by_device.values()) or "not run",
                "; ".join(by_device),
                f"{mean:.4f} +- {width:.4f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
