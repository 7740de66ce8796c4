"""What a recipe is, what was recorded of it, and how both are told: its head, the table, the picture.

A recipe is training/recipes/<method>_<data>.toml (a variant's name ends in one more word): the method, the data, the
arguments, the seeds, what is aimed at. What was recorded lies in docs/results/recipes/<name>.json; the head of the
recipe says the same in words.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.plot import Probed
from latentserve import records

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "training" / "recipes"
RECORDS = ROOT / "docs" / "results" / "recipes"
NOT_RECORDED = "# Not recorded yet: python -m benchmarks.reproduce NAME --record\n"
ACCURACY = "_accuracy"


@dataclass(frozen=True)
class Recipe:
    """What to train and what to expect.

    Attributes:
        method: of `python -m training`.
        data: its --data.
        arguments: the rest of its command line, without seed and run.
        seeds: of the recorded runs.
        targets: figures by name with what is aimed at, at least (at most for nats); 0 only to have the figure beside.
        minutes: aimed at, at most, for the training of one seed; None: none.
    """

    method: str
    data: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: dict[str, float]
    minutes: float | None = None


@dataclass(frozen=True)
class Recorded:
    """What the seeds gave.

    Attributes:
        method: as in the recipe that was run, like the next three.
        data: see there.
        arguments: see there.
        seeds: see there.
        figures: by name, one value a seed.
        measured: by name, on what, and how if not through ONNX.
        untrained: by name, the same of the network as its training began, where a floor has the figure.
        seconds: of training, one value a seed.
        device: they ran on.
        git_revision: of the code.
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


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe. Raises RecordError if a key is missing, unknown or of another type."""
    return records.from_json(Recipe, tomllib.loads(path.read_text()))


def mean_and_spread(values: tuple[float, ...]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; a spread of 0 for one seed."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def head(name: str, recipe: Recipe, recorded: Recorded) -> str:
    """The comment a recipe opens with: result, time, hardware, command."""
    lines = []
    for figure, target in recipe.targets.items():
        mean, spread = mean_and_spread(recorded.figures[figure])
        aim = f" (aimed at {aimed_at(figure, mean, target)})" if target else ""
        lines.append(f"# {figure}: {mean:.4f} +- {spread:.4f}{aim}, {recorded.measured[figure]}")
    seeds = f"{len(recorded.seeds)} seeds" if len(recorded.seeds) > 1 else "one seed"
    lines.append(
        f"# {seeds}, last epoch, through ONNX unless said; {minutes_of(recipe, recorded)} on {recorded.device}"
    )
    lines.append(f"# make reproduce RECIPE={name}")
    return "\n".join(lines) + "\n"


def minutes_of(recipe: Recipe, recorded: Recorded) -> str:
    """How long a seed took, and whether the longest kept to the aim."""
    mean, longest = np.mean(recorded.seconds) / 60, max(recorded.seconds) / 60
    if recipe.minutes is None:
        return f"{mean:.1f} min a run"
    missed = "" if longest <= recipe.minutes else ", missed"
    return f"{mean:.1f} min a run, {longest:.1f} at most (aimed at {recipe.minutes:g}{missed})"


def aimed_at(figure: str, mean: float, target: float) -> str:
    """The aim, and whether it was missed."""
    met = mean <= target if is_cost(figure) else mean >= target
    return f"{target:g}{'' if met else ', missed'}"


def is_cost(figure: str) -> bool:
    """Whether less is better."""
    return figure.endswith(("_nats", "_error"))


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
        "| recipe | figure | mean | spread | untrained | aimed at | seeds | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, recipe, recorded in recorded_recipes():
        for figure, target in recipe.targets.items():
            mean, spread = mean_and_spread(recorded.figures[figure])
            cells = (
                name,
                figure,
                f"{mean:.4f}",
                f"{spread:.4f}" if len(recorded.seeds) > 1 else "",
                f"{np.mean(recorded.untrained[figure]):.4f}" if figure in recorded.untrained else "",
                aimed_at(figure, mean, target) if target else "",
                str(len(recorded.seeds)),
                f"{np.mean(recorded.seconds) / 60:.1f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
