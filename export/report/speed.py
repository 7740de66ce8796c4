"""How large the graphs are and how fast they ran on the machine that exported them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from export.graphs import GraphRunner
from export.report.words import count, size
from latentserve.bundle import Manifest
from latentserve.cpus import available_cpus
from latentserve.devices import CPU
from latentserve.inputs import INPUT
from training.data.rows import Values
from training.evaluation.page import Section, table

BATCH_ROWS = (1, 64)
NUM_RUNS = 5
BUDGET_SECONDS = 0.5
"""Of each figure, after which it is not run again: an export must not take much longer for it."""


@dataclass(frozen=True)
class Pace:
    """Milliseconds a row, in batches of so many rows.

    Attributes:
        batch_rows: rows of a batch.
        embedding_ms: of the encoder alone.
        everything_ms: of all graphs.
    """

    batch_rows: int
    embedding_ms: float
    everything_ms: float


def paces(runner: GraphRunner, encoder_file: str, rows: Values) -> list[Pace]:
    """Medians of a few runs each, on rows as they come."""

    def pace(num: int) -> Pace:
        batch = np.resize(np.asarray(rows[:num]), (num, *rows.shape[1:]))
        encoder = runner.sessions[encoder_file]
        embedding = median_seconds(lambda: encoder.run(["embedding"], {INPUT: batch}))
        everything = median_seconds(lambda: runner.run(batch))
        return Pace(num, 1000 * embedding / num, 1000 * everything / num)

    return [pace(num) for num in BATCH_ROWS]


def median_seconds(
    run: Callable[[], object], clock: Callable[[], float] = time.perf_counter, budget: float = BUDGET_SECONDS
) -> float:
    """Of a few runs after a first one that warms up; of the first alone if it takes longer than the budget."""

    def timed() -> float:
        started = clock()
        run()
        return clock() - started

    first = timed()
    if first >= budget:
        return first
    taken: list[float] = []
    while len(taken) < NUM_RUNS and sum(taken) < budget:
        taken.append(timed())
    return median(taken)


def speed(manifest: Manifest, folder: Path, found: list[Pace]) -> Section:
    """Sizes and times as two tables."""
    (dim,) = manifest.outputs["embedding"].shape
    files = [(graph.file, size((folder / graph.file).stat().st_size)) for graph in manifest.graphs.values()]
    headings = ("milliseconds a row", *(f"{pace.batch_rows} at a time" for pace in found))
    outputs = [name for name in manifest.outputs if name not in ("embedding", "latent_scale")]
    times = [
        ("embedding alone", *(_milliseconds(pace.embedding_ms) for pace in found)),
        (f"with {', '.join(outputs)}", *(_milliseconds(pace.everything_ms) for pace in found)),
    ]
    note = (
        f"An embedding is {dim:,} numbers, {size(4 * dim)} as float32. Times are medians of a few runs on"
        f" {device_of(manifest)}, when the bundle was exported, while other programs may have run; reading files,"
        " waiting in a queue and the network come on top."
    )
    rows = times if outputs else times[:1]
    title = "How large and how fast it is"
    return Section(title, note, body=(table(headings, rows, "times"), table(("graph", "size"), files, "sizes")))


def device_of(manifest: Manifest) -> str:
    """What ran the graphs."""
    provider = manifest.provenance.versions.get("execution_provider", CPU)
    if provider != CPU:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else provider
    model = torch.cpu.get_capabilities().get("cpu_name", "unknown model")
    return f"{count(available_cpus(), 'CPU')} ({model})"


def _milliseconds(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
