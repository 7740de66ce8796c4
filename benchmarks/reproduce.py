"""Recipes: trainings whose figures anybody can have again with one command.

    python -m benchmarks.reproduce simclr_mnist           `make reproduce RECIPE=simclr_mnist`: one seed, checked
    python -m benchmarks.reproduce simclr_mnist --record  all seeds, and the recipe's figures written anew
    python -m benchmarks.reproduce --table                the figures of all recipes, and their picture

A recipe is training/recipes/<method>_<data>.toml (a variant's name ends in one more word): the method, the data, the
arguments, the seeds, what is aimed at. It trains, exports, and takes its figures from the bundle, measured through the
ONNX graphs unless they say otherwise. What was recorded lies in docs/results/recipes/<name>.json; the head of the
recipe says the same in words. A run that was interrupted is resumed; one that is finished is not trained again by the
same code.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.plot import Probed, plot_recipes
from latentserve import bundle, records
from training.evaluate import EVALUATION
from training.evaluation.card import Card
from training.run import RESULT, git_revision

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "training" / "recipes"
RECORDS = ROOT / "docs" / "results" / "recipes"
PICTURE = ROOT / "docs" / "pictures" / "recipes.svg"
WORK = Path("build") / "recipes"
NOT_RECORDED = "# Not recorded yet: python -m benchmarks.reproduce NAME --record\n"
SPREADS = 3.0
SLACK = 0.002
"""A figure is the recorded one if it lies within 3 standard deviations of the seeds and a fifth of a percent: another
CPU rounds differently, and the spread of three seeds is itself uncertain."""
SMALL_SLACK = 0.02  # of the mean, for figures that are no shares (nats)
ONE_SEED_SLACK = 0.01
"""For what one seed gave: its spread is not known."""
DIRTY = "+dirty"
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

    @property
    def training(self) -> dict[str, Any]:
        """What decides the figures, JSON."""
        whole = records.to_json(self)
        return {name: whole[name] for name in ("method", "data", "arguments", "seeds")}


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


@dataclass(frozen=True)
class Options:
    """Reruns a recipe and checks its figures.

    Attributes:
        recipe: file name under training/recipes, without .toml.
        seed: the one to rerun; default: the recipe's first.
        record: run every seed and write what they gave.
        table: print what is recorded and draw docs/pictures/recipes.svg, run nothing.
    """

    recipe: Annotated[str, tyro.conf.Positional] = ""
    seed: int | None = None
    record: bool = False
    table: bool = False


def main(options: Options) -> int:
    """Returns 0 if the figures are the recorded ones."""
    if options.table:
        print(table())
        plot_recipes([*probed()], PICTURE)
        return 0
    path = RECIPES / f"{options.recipe}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        print(f"error: recipe: got {options.recipe!r}, expected one of {known}", file=sys.stderr)
        return 2
    recipe = read_recipe(path)
    if options.record:
        if git_revision().endswith(DIRTY):
            print(
                "error: --record: the checkout was changed; commit first, so that its revision says what ran",
                file=sys.stderr,
            )
            return 2
        recorded = record(recipe, [bundle_of(path.stem, recipe, seed) for seed in recipe.seeds])
        records.write(recorded, RECORDS / f"{path.stem}.json")
        path.write_text(with_head(path.read_text(), head(path.stem, recipe, recorded)))
        print(head(path.stem, recipe, recorded))
        return 0
    if not (RECORDS / f"{path.stem}.json").exists():
        print(f"error: {path.stem}: nothing to check against; first: --record", file=sys.stderr)
        return 2
    folder = bundle_of(path.stem, recipe, recipe.seeds[0] if options.seed is None else options.seed)
    got = {name: figure.value for name, figure in figures_of(recipe, bundle.load(folder)).items()}
    return check(got, records.read(Recorded, RECORDS / f"{path.stem}.json"))


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe. Raises RecordError if a key is missing, unknown or of another type."""
    return records.from_json(Recipe, tomllib.loads(path.read_text()))


def bundle_of(name: str, recipe: Recipe, seed: int) -> Path:
    """Trains (or goes on, or finds it done) and exports one seed; the folder of its newest bundle."""
    work = folder_of(name, recipe)
    run, models = work / f"seed{seed}", work / "models"
    model = f"{name}-seed{seed}".replace("_", "-")
    if not (run / RESULT).exists():
        resume = ["--resume"] if run.exists() else []
        options = ["--data", recipe.data, "--seed", str(seed), "--run", str(run), *recipe.arguments, *resume]
        _python("training", recipe.method, *options)
    if not (models / model).exists():
        _python("export", str(run), "--to", str(models), "--name", model)
    return max((models / model).iterdir(), key=lambda folder: int(folder.name))


def folder_of(name: str, recipe: Recipe) -> Path:
    """Where its runs are: other arguments or other code is another folder, so that nothing stale is found done."""
    revision = git_revision()
    if revision.endswith(DIRTY):
        print(f"{name}: the checkout was changed: runs found done may be of other code", file=sys.stderr)
    said = json.dumps([recipe.method, recipe.data, recipe.arguments])
    return WORK / name / f"{revision}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _python(module: str, *arguments: str) -> None:
    print(f"python -m {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def figures_of(recipe: Recipe, manifest: bundle.Manifest) -> dict[str, bundle.Evaluation]:
    """The recipe's figures, as the bundle has them.

    Raises:
        KeyError: the bundle lacks one.
    """
    found: dict[str, bundle.Evaluation] = {}
    for figure in manifest.evaluations:
        found.setdefault(figure.name, figure)  # the first is the model's own data, then come others
    return {name: found[name] for name in recipe.targets}


def record(recipe: Recipe, folders: list[Path]) -> Recorded:
    """What all seeds gave, from their bundles."""
    manifests = [bundle.load(folder) for folder in folders]
    rows = [figures_of(recipe, manifest) for manifest in manifests]
    sources = [manifest.provenance for manifest in manifests]
    return Recorded(
        method=recipe.method,
        data=recipe.data,
        arguments=recipe.arguments,
        seeds=recipe.seeds,
        figures={name: tuple(row[name].value for row in rows) for name in recipe.targets},
        measured={name: rows[0][name].data for name in recipe.targets},
        untrained=untrained_figures(recipe, [records.read(Card, folder / EVALUATION) for folder in folders]),
        seconds=tuple(source.trained_seconds for source in sources),
        device=sources[0].device,
        git_revision=sources[-1].git_revision,
    )


def untrained_figures(recipe: Recipe, cards: list[Card]) -> dict[str, tuple[float, ...]]:
    """The recipe's figures that the cards have of the untrained network."""
    floors = [{mark.name: mark.value for mark in card.marks if mark.features == "random init"} for card in cards]
    return {name: tuple(one[name] for one in floors) for name in recipe.targets if all(name in one for one in floors)}


def check(got: dict[str, float], recorded: Recorded) -> int:
    """Prints figure by figure; returns 1 if one is not the recorded one."""
    status, slack = 0, SLACK if len(recorded.seeds) > 1 else ONE_SEED_SLACK
    for name, value in got.items():
        mean, spread = mean_and_spread(recorded.figures[name])
        allowed = SPREADS * spread + (slack if mean <= 1 else SMALL_SLACK * mean)
        same = abs(value - mean) <= allowed
        status |= not same
        print(f"{name}: got {value:.4f}, recorded {mean:.4f}, allowed +- {allowed:.4f}: {'ok' if same else 'NO'}")
    return status


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


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.reproduce")))
