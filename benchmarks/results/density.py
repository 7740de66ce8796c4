"""A density needs a representation: the same detector on three kinds of embedding, side by side.

    python -m benchmarks.results.density runs/simclr-mnist runs/vae-mnist --against horizontal_flip rotated_90 shapes

For each run, its encoder and the same network untrained are exported; `Density` (a Gaussian mixture) is fitted on what
the graphs output for the training rows, and scores the test rows and out-of-distribution ones. The claim, from Winkens
et al., https://arxiv.org/abs/2007.05566, and lectures since: after contrastive training the density separates
out-of-distribution rows, before it, or on an autoencoder, much less. Labels are not used. `--table` prints the record.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.results.recipes import mean_and_deviation
from export.detectors.density import Density
from export.graphs import EXAMPLE_ROWS, EncoderGraph, GraphRunner, encoder_outputs, export_graph
from latentserve import records
from latentserve.inputs import INPUT
from training.evaluation.ood_sets import known_sets, ood_rows
from training.evaluation.other_data import in_shape_of
from training.evaluation.separation import auroc
from training.running.run import Run, load_model, open_run

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "density.json"
TRAIN_ROWS, TEST_ROWS = 10_000, 5000


@dataclass(frozen=True)
class Options:
    """Compares embeddings by what a density on them finds.

    Attributes:
        runs: folders that `python -m training` left behind.
        against: out-of-distribution sets and data specs.
        record: write docs/results/density.json.
        table: print what is recorded, over seeds, as Markdown; run nothing.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    against: tuple[str, ...] = ("horizontal_flip", "rotated_90", "shapes", "noise", "blends")
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Row:
    """One embedding.

    Attributes:
        embedding: its method, or its method untrained.
        data: it was trained on.
        seed: of the run.
        auroc: of the density, by out-of-distribution set.
    """

    embedding: str
    data: str
    seed: int
    auroc: dict[str, float]


@dataclass(frozen=True)
class Figures:
    """What is recorded."""

    rows: tuple[Row, ...]


def main(options: Options) -> int:
    """Prints a line for each embedding."""
    if options.table:
        print("\n".join(over_seeds(records.read(Figures, RESULTS))))
        return 0
    rows = [row for folder in options.runs for row in measured(folder, options.against)]
    table = Table(title="AUROC of the density of the embedding", title_justify="left")
    for heading in ("embedding", "data", "seed", *options.against):
        table.add_column(heading, justify="left" if heading in ("embedding", "data") else "right")
    for row in rows:
        table.add_row(row.embedding, row.data, str(row.seed), *(f"{row.auroc[name]:.4f}" for name in options.against))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)
    if options.record:
        records.write(Figures(tuple(rows)), RESULTS)
        print(RESULTS)
    return 0


def over_seeds(figures: Figures) -> list[str]:
    """Mean and standard deviation of each embedding's AUROC."""
    sets = list(figures.rows[0].auroc)
    lines = [f"| density on | seeds | {' | '.join(sets)} |", f"| --- | --- |{' --- |' * len(sets)}"]
    for kind in dict.fromkeys((row.embedding, row.data) for row in figures.rows):
        rows = [row for row in figures.rows if (row.embedding, row.data) == kind]
        cells = []
        for name in sets:
            mean, standard_deviation = mean_and_deviation(tuple(row.auroc[name] for row in rows))
            cells.append(f"{mean:.3f} +- {standard_deviation:.3f}" if len(rows) > 1 else f"{mean:.3f}")
        lines.append(f"| {', '.join(kind)} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def measured(folder: Path, against: tuple[str, ...]) -> Iterator[Row]:
    """The run's encoder, and the same network untrained."""
    run, _ = open_run(folder)
    data = run.load_data()
    torch.manual_seed(run.loop.seed)
    models: dict[str, Any] = {run.method: load_model(folder, run), f"{run.method}, untrained": run.build().eval()}
    test = data.test.values[:TEST_ROWS]
    sets = {name: _ood_rows(name, run, test) for name in against}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            example = torch.from_numpy(test[:EXAMPLE_ROWS])
            names = encoder_outputs(model, example)
            graph = export_graph(EncoderGraph(model), {INPUT: example}, names, Path(scratch) / "encoder.onnx")
            runner = GraphRunner(Path(scratch), [graph])
            density = Density.fit({"embedding": runner.run(data.train.values[:TRAIN_ROWS])["embedding"]})
            id_scores_N = _scores(density, runner, test)
            found = {ood: auroc(id_scores_N, _scores(density, runner, rows)) for ood, rows in sets.items()}
        yield Row(name, run.data, run.loop.seed, found)


def _ood_rows(name: str, run: Run, test: NDArray[Any]) -> NDArray[Any]:
    if name in known_sets(test):
        return ood_rows(name, test)
    return in_shape_of(run, name).test.values[:TEST_ROWS]


def _scores(density: Density, runner: GraphRunner, rows: NDArray[Any]) -> NDArray[np.float32]:
    with torch.no_grad():
        scores: NDArray[np.float32] = density(torch.from_numpy(runner.run(rows)["embedding"])).numpy()
    return scores


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.density")))
