"""Stage `parity`: are numbers on the device those of the CPU, whatever shares the batch, and do p-values move?

For every prepared bundle (`prepared`): golden rows and batches of several sizes against the CPU, in shares of what the
bundle's own parity allows; embeddings with other co-batched rows and in batches of another size; with TF32, which we
switch off; and the p-values of 2,000 in-distribution rows on both. Where these differ by more than 1/sqrt(n),
calibration rows have to be scored on the device that serves: `python -m export RUN --device cuda`.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from benchmarks.gpu.cells import Cells, Figures
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine, cpu_engine
from benchmarks.gpu.prepared import FRESH_ROWS, Small, fresh_rows, models_of
from latentserve import bundle
from latentserve.conformal import p_values
from latentserve.inputs import INPUT
from service.engine.engine import Engine
from service.scheduling.queue import Piece

BATCHES = (1, 3, 8, 64)
ALPHAS = (0.01, 0.05)
REHEARSED_ROWS = 200

Tensors = dict[str, NDArray[Any]]


def run(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """One cell for each bundle."""
    checks = []
    for small in models_of(machine):
        found = sorted((folder / "methods").glob(f"{small.method}-*/1"))
        for made in found or [folder / "methods" / f"{small.method}-float32" / "1"]:  # which then says that it lacks
            name = made.parent.name
            figures = cells.measure(name, partial(of_bundle, machine, small, made))
            checks += checks_of(name, figures)
    return checks


def of_bundle(machine: Machine, small: Small, folder: Path) -> Figures:
    """All figures of one bundle."""
    rows = fresh_rows(small.shape, machine.choose(FRESH_ROWS, REHEARSED_ROWS))
    device, cpu = machine.engine(folder, BATCHES[-1]), cpu_engine(folder, BATCHES[-1])
    golden = bundle.load_arrays(folder / bundle.GOLDEN)
    return {
        "golden_share_of_tolerance": golden_share(device, golden),
        "golden_share_with_tf32": golden_share(
            machine.engine(folder, BATCHES[-1], cuda_options=(("use_tf32", "1"),)), golden
        ),
        **batch_shares(device, cpu, rows),
        **co_batched(device, rows),
        **moved_p_values(device, cpu, folder, rows),
    }


def checks_of(name: str, figures: Figures | None) -> list[Check]:
    """Requirements on a bundle."""
    if figures is None:
        return [Check(f"{name}: measured", None, "measured", False)]
    shares = [figures["golden_share_of_tolerance"], *(figures[f"share_at_batch_{size}"] for size in BATCHES)]
    return [
        Check.at_most(f"{name}: off the CPU and the golden rows, of what is allowed", float(np.max(shares)), 1.0),
        Check.at_most(f"{name}: same size, other co-batched rows", figures["co_batched_same_size"], 0.0),
        Check.at_most(f"{name}: Kolmogorov distance of p-values", figures["kolmogorov"], figures["kolmogorov_allowed"]),
    ]


def tensors_of(engine: Engine, rows: NDArray[Any], batch_rows: int) -> Tensors:
    """Everything that the bundle's graphs output for some rows, in batches of a size."""
    wants = frozenset(engine.manifest.outputs)
    parts = [
        engine.run(INPUT, [Piece(rows[start : start + batch_rows], wants)])[0]
        for start in range(0, len(rows), batch_rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in sorted(wants)}


def share(engine: Engine, got: Tensors, expected: Tensors) -> float:
    """The largest difference over all tensors, in shares of what the bundle's parity allows; NaN if any number is.

    Python's own `max` would pass over a NaN that does not come first.
    """
    tolerances = {one.tensor: one.tolerance for one in engine.manifest.parity}
    return float(np.max([np.abs(got[name] - expected[name]).max() / tolerances[name] for name in tolerances]))


def golden_share(engine: Engine, golden: Tensors) -> float:
    """Of the golden rows."""
    return share(engine, tensors_of(engine, golden[INPUT], len(golden[INPUT])), golden)


def batch_shares(device: Engine, cpu: Engine, rows: NDArray[Any]) -> Figures:
    """Of batches of several sizes, against the CPU."""
    of_cpu = tensors_of(cpu, rows[: BATCHES[-1]], BATCHES[-1])
    return {
        f"share_at_batch_{size}": share(
            device, tensors_of(device, rows[:size], size), {name: one[:size] for name, one in of_cpu.items()}
        )
        for size in BATCHES
    }


def co_batched(device: Engine, rows: NDArray[Any]) -> Figures:
    """How far one row's embedding moves with what shares its batch; 0 is bit for bit."""

    def embedding(of_rows: NDArray[Any], place: int) -> NDArray[np.float32]:
        (tensors,) = device.run(INPUT, [Piece(of_rows, frozenset({"embedding"}))])
        row: NDArray[np.float32] = tensors["embedding"][place]
        return row

    same, other = [], []
    alone = embedding(rows[:1], 0)
    for size in BATCHES[1:]:
        first = embedding(rows[:size], 0)
        for place in (0, size // 2, size - 1):
            mixed = rows[size : 2 * size].copy()
            mixed[place] = rows[0]
            same.append(np.abs(embedding(mixed, place) - first).max())
        other.append(np.abs(first - alone).max())
    return {
        "co_batched_same_size": float(np.max(same)),
        "co_batched_other_size": float(np.max(other)),
        "largest_embedding": float(np.abs(alone).max()),
    }


def moved_p_values(device: Engine, cpu: Engine, folder: Path, rows: NDArray[Any]) -> Figures:
    """p-values of in-distribution rows on the device and on the CPU, by one calibration."""
    manifest = device.manifest
    calibration = bundle.load_calibration(folder, manifest)[manifest.detectors[0].name]
    on_device, on_cpu = (
        p_values(tensors_of(engine, rows, BATCHES[-1])["scores"][:, 0], calibration) for engine in (device, cpu)
    )
    found: Figures = {
        "rows": len(rows),
        "kolmogorov": float(ks_2samp(on_device, on_cpu, method="asymp").statistic),
        "kolmogorov_allowed": 1 / math.sqrt(len(rows)),
        "largest_move": float(np.abs(on_device - on_cpu).max()),
    }
    for alpha in ALPHAS:
        found[f"changed_decisions_at_{alpha}"] = float(((on_device <= alpha) != (on_cpu <= alpha)).mean())
    return found
