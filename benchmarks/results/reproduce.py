"""Recipes: trainings whose figures anybody can have again with one command.

    python -m benchmarks.results.reproduce simclr_mnist                 `make reproduce RECIPE=...`: one seed, checked
    python -m benchmarks.results.reproduce simclr_mnist --record        all seeds, and the recipe's figures written anew
    python -m benchmarks.results.reproduce simclr_mnist --add BUNDLE... adds figures of runs elsewhere
    python -m benchmarks.results.reproduce --table                      the figures of all recipes, and their picture

Threads and instruction sets add in another order, so a run is the same bit for bit only with as many threads on a CPU
of the same instruction set. It is run with the record's number of threads unless told otherwise; how far a figure may
be off is learnt from seeds and CPUs together (`recipes.band`).

It trains, exports, and takes its figures from the bundle, measured through the ONNX graphs unless they say otherwise. A
run that was interrupted is resumed; one that is finished is not trained again by the same code.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.results.recipe_plot import plot_recipes
from benchmarks.results.recipes import (
    RECIPES,
    RECORDS,
    ROOT,
    Elsewhere,
    Recipe,
    Recorded,
    band,
    head,
    probed,
    read_recipe,
    table,
    table_of_repeats,
    with_head,
)
from latentserve import bundle, records
from latentserve.errors import BundleError
from training.__main__ import parse
from training.evaluation.report import EVALUATION, EvaluationReport
from training.running.revision import git_revision
from training.running.run import FREE, RESULT

PICTURE = ROOT / "docs" / "pictures" / "recipes.svg"
WORK = Path("build") / "recipes"
DIRTY = "+dirty"


@dataclass(frozen=True)
class Options:
    """Reruns a recipe and checks its figures.

    Attributes:
        recipe: file name under training/recipes, without .toml.
        seed: seed to rerun; default: the recipe's first.
        record: run every seed and write the figures.
        add: bundles of this recipe that were trained elsewhere; their figures are written into its record.
        threads: number of threads for training; 0: as many as the recorded runs had.
        table: print what is recorded and draw docs/pictures/recipes.svg, run nothing.
    """

    recipe: Annotated[str, tyro.conf.Positional] = ""
    seed: int | None = None
    record: bool = False
    add: tuple[Path, ...] = ()
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    table: bool = False


def main(options: Options) -> int:
    """Returns 0 if the figures are the recorded ones, 1 if they are others or a run fails, 2 for a wrong call."""
    if options.table:
        print(f"{table()}\n\n{table_of_repeats()}")
        plot_recipes([*probed()], PICTURE)
        return 0
    path = RECIPES / f"{options.recipe}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        print(f"error: recipe: got {options.recipe!r}, expected one of {known}", file=sys.stderr)
        return 2
    try:
        return _run(path, read_recipe(path), options)
    except (ValueError, BundleError, subprocess.CalledProcessError) as error:
        print(f"error: {options.recipe}: {error}", file=sys.stderr)
        return 1


def _run(path: Path, recipe: Recipe, options: Options) -> int:
    """Records the recipe, adds to its record, or runs one seed again and holds it against it."""
    if options.record:
        return _record(path, recipe, options.threads)
    if not (RECORDS / f"{path.stem}.json").exists():
        print(f"error: {path.stem}: nothing to check against; first: --record", file=sys.stderr)
        return 2
    recorded = records.read(Recorded, RECORDS / f"{path.stem}.json")
    if options.add:
        return _add(path.stem, recipe, recorded, options.add)
    seed = recipe.seeds[0] if options.seed is None else options.seed
    work = folder_of(path.stem, recipe) / (f"threads{options.threads}" if options.threads else "")
    folder = bundle_of(path.stem, recipe, seed, work, options.threads or recorded.threads)
    manifest = bundle.load(folder)
    print(f"on {manifest.provenance.device}; recorded on {recorded.device}")
    return check({name: figure.value for name, figure in figures_of(recipe, manifest).items()}, recorded)


def _record(path: Path, recipe: Recipe, threads: int) -> int:
    """Runs all seeds and writes their figures. Drops what was added of other CPUs: it is of the old runs."""
    if git_revision().endswith(DIRTY):
        print(
            "error: --record: the checkout was changed; commit first, so that its revision says what ran",
            file=sys.stderr,
        )
        return 2
    work = folder_of(path.stem, recipe)
    recorded = record(recipe, [bundle_of(path.stem, recipe, seed, work, threads) for seed in recipe.seeds])
    records.write(recorded, RECORDS / f"{path.stem}.json")
    path.write_text(with_head(path.read_text(), head(path.stem, recipe, recorded)))
    print(head(path.stem, recipe, recorded))
    return 0


def _add(name: str, recipe: Recipe, recorded: Recorded, folders: tuple[Path, ...]) -> int:
    """Checks bundles that were trained elsewhere against a record, then writes their figures into it."""
    status, added = 0, list(recorded.elsewhere)
    for folder in folders:
        run = elsewhere(recipe, bundle.load(folder))
        print(f"{folder}: seed {run.seed}, {run.device}")
        status |= check(run.figures, recorded)
        if run not in added:
            added.append(run)
    records.write(replace(recorded, elsewhere=tuple(added)), RECORDS / f"{name}.json")
    return status


def elsewhere(recipe: Recipe, manifest: bundle.Manifest) -> Elsewhere:
    """The figures of a bundle that was trained elsewhere.

    Raises:
        ValueError: it is of another recipe, or of code that was not committed.
    """
    source = manifest.provenance
    options, config = parse(recipe.method, ["--data", recipe.data, *recipe.arguments])
    asked = {"method": recipe.method, "data": recipe.data}
    asked |= {"loop": records.to_json(options.loop), "config": records.to_json(config)}
    if wrong := records.differences(_comparable(source.config), _comparable(asked)):
        raise ValueError(f"bundle of another run: {wrong[0]}")
    if source.git_revision.endswith(DIRTY):
        raise ValueError(f"git_revision: got {source.git_revision}, expected code that was committed")
    figures = {name: figure.value for name, figure in figures_of(recipe, manifest).items()}
    return Elsewhere(source.seed, source.device, figures, source.git_revision)


def _comparable(run: dict[str, Any]) -> dict[str, Any]:
    """What two runs of a recipe have in common. `--precision auto` is float32 on one CPU and bfloat16 on another."""
    free = ("seed", "precision", *FREE)
    loop = {name: value for name, value in run["loop"].items() if name not in free}
    return {"loop": loop} | {name: run[name] for name in ("method", "data", "config")}


def bundle_of(name: str, recipe: Recipe, seed: int, work: Path | None = None, threads: int = 0) -> Path:
    """Trains (or goes on, or finds it done) and exports one seed; the folder of its newest bundle.

    Args:
        name: of the recipe.
        recipe: see there.
        seed: of the run.
        work: folder of its runs.
        threads: of the training; 0: as many as PyTorch takes.
    """
    work = work or folder_of(name, recipe)
    run, models = work / f"seed{seed}", work / "models"
    model = f"{name}-seed{seed}".replace("_", "-")
    if not (run / RESULT).exists():
        resume = ["--resume"] if run.exists() else []
        options = ["--data", recipe.data, "--seed", str(seed), "--run", str(run), *recipe.arguments, *resume]
        _python(threads, "training", recipe.method, *options)
    if not _versions(models / model):
        _python(threads, "export", str(run), "--to", str(models), "--name", model)
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


def _python(threads: int, module: str, *arguments: str) -> None:
    print(f"python -m {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=environment)


def figures_of(recipe: Recipe, manifest: bundle.Manifest) -> dict[str, bundle.Evaluation]:
    """The recipe's figures, as the bundle has them.

    Raises:
        ValueError: the bundle lacks one.
    """
    found: dict[str, bundle.Evaluation] = {}
    for figure in manifest.evaluations:
        found.setdefault(figure.name, figure)  # the first is the model's own data, then come others
    if missing := [name for name in recipe.targets if name not in found]:
        raise ValueError(f"targets: got {missing[0]}, expected among what the bundle has: {', '.join(found)}")
    return {name: found[name] for name in recipe.targets}


def record(recipe: Recipe, folders: list[Path]) -> Recorded:
    """The record of all seeds, from their bundles.

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
        untrained=untrained_figures(
            recipe, [records.read(EvaluationReport, folder / EVALUATION) for folder in folders]
        ),
        seconds=tuple(source.trained_seconds for source in sources),
        device=sources[0].device,
        git_revision=sources[-1].git_revision,
    )


def untrained_figures(recipe: Recipe, reports: list[EvaluationReport]) -> dict[str, tuple[float, ...]]:
    """The recipe's figures that the evaluation reports have of the untrained network."""
    baselines = [
        {metric.name: metric.value for metric in report.metrics if metric.features == "random init"}
        for report in reports
    ]
    return {
        name: tuple(one[name] for one in baselines) for name in recipe.targets if all(name in one for one in baselines)
    }


def check(got: dict[str, float], recorded: Recorded) -> int:
    """Prints figure by figure; returns 1 if one is not the recorded one."""
    status = 0
    for name, value in got.items():
        mean, allowed = band(recorded.all_of(name))
        same = abs(value - mean) <= allowed
        status |= not same
        print(f"{name}: got {value:.4f}, recorded {mean:.4f}, allowed +- {allowed:.4f}: {'ok' if same else 'NO'}")
    return status


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.reproduce")))
