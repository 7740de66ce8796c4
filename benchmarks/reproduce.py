"""Recipes: trainings whose figures anybody can have again with one command.

    python -m benchmarks.reproduce simclr_mnist           `make reproduce RECIPE=simclr_mnist`: one seed, checked
    python -m benchmarks.reproduce simclr_mnist --record  all seeds, and the recipe's figures written anew
    python -m benchmarks.reproduce --table                the figures of all recipes, and their picture

It trains, exports, and takes its figures from the bundle, measured through the ONNX graphs unless they say otherwise. A
run that was interrupted is resumed; one that is finished is not trained again by the same code.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.plot import plot_recipes
from benchmarks.recipes import (
    RECIPES,
    RECORDS,
    ROOT,
    Recipe,
    Recorded,
    head,
    mean_and_spread,
    probed,
    read_recipe,
    table,
    with_head,
)
from latentserve import bundle, records
from training.evaluate import EVALUATION
from training.evaluation.card import Card
from training.revision import git_revision
from training.run import RESULT

PICTURE = ROOT / "docs" / "pictures" / "recipes.svg"
WORK = Path("build") / "recipes"
SPREADS = 3.0
SLACK = 0.002
"""A figure is the recorded one if it lies within 3 standard deviations of the seeds and a fifth of a percent: another
CPU rounds differently, and the spread of three seeds is itself uncertain."""
SMALL_SLACK = 0.02  # of the mean, for figures that are no shares (nats)
ONE_SEED_SLACK = 0.01
"""For what one seed gave: its spread is not known."""
DIRTY = "+dirty"


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
        work = folder_of(path.stem, recipe)
        recorded = record(recipe, [bundle_of(path.stem, recipe, seed, work) for seed in recipe.seeds])
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


def bundle_of(name: str, recipe: Recipe, seed: int, work: Path | None = None) -> Path:
    """Trains (or goes on, or finds it done) and exports one seed; the folder of its newest bundle."""
    work = work or folder_of(name, recipe)
    run, models = work / f"seed{seed}", work / "models"
    model = f"{name}-seed{seed}".replace("_", "-")
    if not (run / RESULT).exists():
        resume = ["--resume"] if run.exists() else []
        options = ["--data", recipe.data, "--seed", str(seed), "--run", str(run), *recipe.arguments, *resume]
        _python("training", recipe.method, *options)
    if not _versions(models / model):
        _python("export", str(run), "--to", str(models), "--name", model)
    return max(_versions(models / model), key=lambda folder: int(folder.name))


def _versions(model: Path) -> list[Path]:
    return [folder for folder in model.glob("*") if folder.name.isdigit()]


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
    """What all seeds gave, from their bundles.

    Raises:
        ValueError: they were trained by different code, or by code that was not committed.
    """
    manifests = [bundle.load(folder) for folder in folders]
    revisions = sorted({manifest.provenance.git_revision for manifest in manifests})
    if len(revisions) > 1 or revisions[0].endswith(DIRTY):
        raise ValueError(f"git_revision: got {', '.join(revisions)}, expected one, committed, for all seeds; run again")
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


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.reproduce")))
