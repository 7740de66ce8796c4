"""Recipes: trainings whose figures anybody can have again with one command.

    python -m benchmarks.reproduce simclr_mnist           `make reproduce RECIPE=simclr_mnist`: one seed, checked
    python -m benchmarks.reproduce simclr_mnist --record  all seeds, and the recipe's figures written anew
    python -m benchmarks.reproduce --table                the figures of all recipes

A recipe is training/recipes/<method>_<data>.toml (a variant's name ends in one more word): the method, the data, the
arguments, the seeds, what is aimed at. It trains, exports, and takes its figures from the bundle, where they were
measured through the ONNX graphs. What was recorded lies in docs/results/recipes/<name>.json; the head of the recipe
says the same in words. A run that was interrupted is resumed; one that is finished is not trained again.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from latentserve import bundle, records
from training.run import RESULT

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "training" / "recipes"
RECORDS = ROOT / "docs" / "results" / "recipes"
WORK = Path("build") / "recipes"
NOT_RECORDED = "# Not recorded yet: python -m benchmarks.reproduce NAME --record\n"
SPREADS = 3.0
SLACK = 0.002
"""A figure is the recorded one if it lies within 3 standard deviations of the seeds and a fifth of a percent: another
CPU rounds differently, and the spread of three seeds is itself uncertain."""
SMALL_SLACK = 0.02  # of the mean, for figures that are no shares (nats)


@dataclass(frozen=True)
class Recipe:
    """What to train and what to expect.

    Attributes:
        method: of `python -m training`.
        data: its --data.
        arguments: the rest of its command line, without seed and run.
        seeds: of the recorded runs.
        targets: figures by name with what is aimed at, at least (at most for nats); 0 only to have the figure beside.
    """

    method: str
    data: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: dict[str, float]


@dataclass(frozen=True)
class Recorded:
    """What the seeds gave.

    Attributes:
        seeds: that were run.
        figures: by name, one value a seed.
        seconds: of training, one value a seed.
        device: they ran on.
        git_revision: of the code.
    """

    seeds: tuple[int, ...]
    figures: dict[str, tuple[float, ...]]
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
        table: print what is recorded, run nothing.
    """

    recipe: Annotated[str, tyro.conf.Positional] = ""
    seed: int | None = None
    record: bool = False
    table: bool = False


def main(options: Options) -> int:
    """Returns 0 if the figures are the recorded ones."""
    if options.table:
        print(table())
        return 0
    path = RECIPES / f"{options.recipe}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        print(f"error: recipe: got {options.recipe!r}, expected one of {known}", file=sys.stderr)
        return 2
    recipe = read_recipe(path)
    if options.record:
        recorded = record(recipe, [run_seed(path.stem, recipe, seed) for seed in recipe.seeds])
        records.write(recorded, RECORDS / f"{path.stem}.json")
        path.write_text(with_head(path.read_text(), head(path.stem, recipe, recorded)))
        print(head(path.stem, recipe, recorded))
        return 0
    if not (RECORDS / f"{path.stem}.json").exists():
        print(f"error: {path.stem}: nothing to check against; first: --record", file=sys.stderr)
        return 2
    manifest = run_seed(path.stem, recipe, recipe.seeds[0] if options.seed is None else options.seed)
    return check(figures_of(recipe, manifest), records.read(Recorded, RECORDS / f"{path.stem}.json"))


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe. Raises RecordError if a key is missing, unknown or of another type."""
    return records.from_json(Recipe, tomllib.loads(path.read_text()))


def run_seed(name: str, recipe: Recipe, seed: int) -> bundle.Manifest:
    """The manifest of `bundle_of`."""
    return bundle.load(bundle_of(name, recipe, seed))


def bundle_of(name: str, recipe: Recipe, seed: int) -> Path:
    """Trains (or goes on, or finds it done) and exports one seed; the folder of its newest bundle."""
    run, models = WORK / name / f"seed{seed}", WORK / name / "models"
    model = f"{name}-seed{seed}".replace("_", "-")
    if not (run / RESULT).exists():
        resume = ["--resume"] if run.exists() else []
        options = ["--data", recipe.data, "--seed", str(seed), "--run", str(run), *recipe.arguments, *resume]
        _python("training", recipe.method, *options)
    if not (models / model).exists():
        _python("export", str(run), "--to", str(models), "--name", model)
    return max((models / model).iterdir(), key=lambda folder: int(folder.name))


def _python(module: str, *arguments: str) -> None:
    print(f"python -m {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def figures_of(recipe: Recipe, manifest: bundle.Manifest) -> dict[str, float]:
    """The recipe's figures, as the bundle has them.

    Raises:
        KeyError: the bundle lacks one.
    """
    found: dict[str, float] = {}
    for figure in manifest.evaluations:
        found.setdefault(figure.name, figure.value)  # the first is the model's own data, then come others
    return {name: found[name] for name in recipe.targets}


def record(recipe: Recipe, manifests: list[bundle.Manifest]) -> Recorded:
    """What all seeds gave."""
    rows = [figures_of(recipe, manifest) for manifest in manifests]
    sources = [manifest.provenance for manifest in manifests]
    return Recorded(
        seeds=recipe.seeds,
        figures={name: tuple(row[name] for row in rows) for name in recipe.targets},
        seconds=tuple(source.trained_seconds for source in sources),
        device=sources[0].device,
        git_revision=sources[-1].git_revision,
    )


def check(got: dict[str, float], recorded: Recorded) -> int:
    """Prints figure by figure; returns 1 if one is not the recorded one."""
    status = 0
    for name, value in got.items():
        mean, spread = mean_and_spread(recorded.figures[name])
        allowed = SPREADS * spread + (SLACK if mean <= 1 else SMALL_SLACK * mean)
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
        lines.append(f"# {figure}: {mean:.4f} +- {spread:.4f}{aim}")
    seeds = f"{len(recorded.seeds)} seeds" if len(recorded.seeds) > 1 else "one seed"
    minutes = np.mean(recorded.seconds) / 60
    lines.append(f"# {seeds}, last epoch, through ONNX; {minutes:.1f} min a run on {recorded.device}")
    lines.append(f"# make reproduce RECIPE={name}")
    return "\n".join(lines) + "\n"


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


def table() -> str:
    """What all recipes recorded, as Markdown."""
    rows = [
        "| recipe | figure | mean | spread | aimed at | seeds | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(RECORDS.glob("*.json")):
        recipe, recorded = read_recipe(RECIPES / f"{path.stem}.toml"), records.read(Recorded, path)
        for figure, target in recipe.targets.items():
            mean, spread = mean_and_spread(recorded.figures[figure])
            minutes, several = np.mean(recorded.seconds) / 60, len(recorded.seeds) > 1
            aim = aimed_at(figure, mean, target) if target else ""
            cells = (
                path.stem,
                figure,
                f"{mean:.4f}",
                f"{spread:.4f}" if several else "",
                aim,
                str(len(recorded.seeds)),
            )
            rows.append(f"| {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.reproduce")))
