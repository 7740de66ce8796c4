"""What a score costs beside the embedding it is made from: each graph of a bundle alone, on this machine's CPU.

    python -m benchmarks.serving.scoring build/demo-mnist/models/mnist-vae/1 [more bundles]
    python -m benchmarks.serving.scoring BUNDLE... --record    and writes docs/results/scoring.json
    python -m benchmarks.serving.scoring --table               what is recorded, as Markdown

`Embed` runs the encoder alone; `Score` runs the encoder and the decoder where the bundle has one (a pass), and the
scorer. Graphs take turns, round after round, so that other work on the machine slows all of them; the figure is the
median round.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from export.graphs import GraphRunner
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.inputs import INPUT

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "scoring.json"
BATCHES = (1, 8, 64)
ROUNDS = 40
GRAPHS = ("encoder", "decoder", "scorer")


@dataclass(frozen=True)
class Options:
    """Times the graphs of some bundles.

    Attributes:
        bundles: folders of bundles.
        record: write docs/results/scoring.json.
        table: print what is recorded, run nothing.
    """

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Cost:
    """One bundle at one batch size.

    Attributes:
        bundle: name and version.
        embedding_dim: of it.
        num_detectors: the columns of `scores`.
        scorer_bytes: of the graph's file.
        rows: in a batch.
        milliseconds: of each graph that the bundle has, by name.
    """

    bundle: str
    embedding_dim: int
    num_detectors: int
    scorer_bytes: int
    rows: int
    milliseconds: dict[str, float]

    @property
    def ratio(self) -> float:
        """What `Score` costs, in embeddings."""
        return sum(self.milliseconds.values()) / self.milliseconds["encoder"]

    @property
    def beside_pass(self) -> float:
        """What it costs, in passes: the encoder, and the decoder where there is one."""
        whole = sum(self.milliseconds.values())
        return whole / (whole - self.milliseconds["scorer"])


@dataclass(frozen=True)
class Recorded:
    """What was measured."""

    costs: tuple[Cost, ...]


def main(options: Options) -> int:
    """Prints the table; returns 2 where there is nothing to time."""
    if options.table:
        print(table(records.read(Recorded, RESULTS)))
        return 0
    if not options.bundles:
        print("error: bundles: got none, expected at least one folder", file=sys.stderr)
        return 2
    found = Recorded(tuple(cost for folder in options.bundles for cost in costs(folder.resolve())))
    print(table(found))
    if options.record:
        records.write(found, RESULTS)
        print(RESULTS)
    return 0


def costs(folder: Path) -> list[Cost]:
    """Of one bundle, at every batch size.

    Raises:
        BundleError: not a bundle.
        ValueError: it does not score.
    """
    manifest = bundle.load(folder)
    if "scorer" not in manifest.graphs:
        raise ValueError(f"{folder}: has no scorer")
    runner = GraphRunner(folder, manifest.graphs.values())
    rows = np.load(folder / bundle.GOLDEN)[INPUT]
    return [_cost(folder, manifest, runner, np.resize(rows, (num, *rows.shape[1:]))) for num in BATCHES]


def _cost(folder: Path, manifest: Manifest, runner: GraphRunner, rows: Any) -> Cost:
    given = {INPUT: rows, **runner.with_patches().run(rows)}
    names = [name for name in GRAPHS if name in manifest.graphs]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            graph = manifest.graphs[name]
            feed = {one.name: given[one.name] for one in graph.inputs}
            started = time.perf_counter()
            runner.sessions[graph.file].run(None, feed)
            seconds[name].append(time.perf_counter() - started)
    return Cost(
        bundle=f"{manifest.name}/{manifest.version}",
        embedding_dim=given["embedding"].shape[1],
        num_detectors=len(manifest.detectors),
        scorer_bytes=(folder / manifest.graphs["scorer"].file).stat().st_size,
        rows=len(rows),
        milliseconds={name: round(1e3 * statistics.median(of_graph), 2) for name, of_graph in seconds.items()},
    )


def table(found: Recorded) -> str:
    """As Markdown."""
    columns = "dimensions | detectors | scorer MB | rows | encoder ms | decoder ms | scorer ms | Score / Embed"
    lines = [f"| bundle | {columns} | Score / pass |", "| --- |" + " --- |" * 9]
    for cost in found.costs:
        times = " | ".join(f"{cost.milliseconds[name]:.2f}" if name in cost.milliseconds else "" for name in GRAPHS)
        size = f"{cost.scorer_bytes / 1e6:.1f}"
        about = f"{cost.bundle} | {cost.embedding_dim} | {cost.num_detectors} | {size} | {cost.rows}"
        lines.append(f"| {about} | {times} | {cost.ratio:.1f} | {cost.beside_pass:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving.scoring")))
