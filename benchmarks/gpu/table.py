"""What the stages recorded, as lines of a table: on the terminal, and as Markdown for README."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.gpu.cells import Record, read_record
from latentserve.devices import CUDA, TENSORRT

COLUMNS = ("stage", "state", "what it found", "checks", "seconds")
Line = tuple[str, str, str, str, str]


def lines(out: Path, stages: Iterable[str]) -> Iterator[Line]:
    """One for each stage, measured or not."""
    for stage in stages:
        record = read_record(out / f"{stage}.json")
        if record is None:
            yield stage, "not measured", "", "", ""
            continue
        held = sum(check["holds"] for check in record.checks)
        checks = f"{held} of {len(record.checks)} hold" if record.checks else ""
        yield (
            stage,
            f"{record.status}{f': {record.why}' if record.why else ''}",
            found(record),
            checks,
            f"{record.seconds:.0f}",
        )


def found(record: Record) -> str:
    """The figures of a stage that are worth a line."""
    cells = {name: cell for name, cell in record.cells.items() if "error" not in cell}
    telling: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
        "facts": _facts,
        "parity": _parity,
        "engine": _engine,
        "serve": _serve,
        "several": _several,
        "score": _score,
        "train": _train,
    }
    return "; ".join(telling[record.stage](cells)) if cells and record.stage in telling else f"{len(cells)} cells"


def _facts(cells: dict[str, Any]) -> Iterator[str]:
    yield str(cells.get("gpu", {}).get("name", "?"))
    software, providers = cells.get("software", {}), cells.get("providers", {})
    yield f"ONNX Runtime {software.get('onnxruntime')}, torch {software.get('torch')}, Python {software.get('python')}"
    for name in (CUDA, TENSORRT):
        yield f"{name.removesuffix('ExecutionProvider')}: {providers.get(name)}"


def _parity(cells: dict[str, Any]) -> Iterator[str]:
    shares = [cell["golden_share_of_tolerance"] for cell in cells.values()]
    yield f"{len(cells)} bundles, at most {np.max(shares):.2g} of what is allowed off"
    yield f"p-values: Kolmogorov at most {np.max([cell['kolmogorov'] for cell in cells.values()]):.3g}"
    same = np.max([cell["co_batched_same_size"] for cell in cells.values()])
    yield "other co-batched rows: bit for bit" if same == 0 else f"other co-batched rows: {same:.2g} off at most"


def _engine(cells: dict[str, Any]) -> Iterator[str]:
    largest: dict[str, tuple[int, dict[str, float]]] = {}
    for name, cell in cells.items():
        label, _, size = name.partition(" batch ")
        if size and int(size) > largest.get(label, (0, {}))[0]:
            largest[label] = int(size), cell
    for label, (rows, cell) in largest.items():
        of_alone = cell["engine"] / cell["alone_copying"]
        yield f"{label} {cell['engine']:,.0f} img/s ({of_alone:.2f} of ONNX Runtime) at {rows}"


def _serve(cells: dict[str, Any]) -> Iterator[str]:
    for name, cell in cells.items():
        if name.endswith((" raw 64", " raw 1")):
            share = f" ({cell['of_engine']:.2f} of the engine)" if cell["of_engine"] else ""
            yield f"{name} {cell['images_per_second']:,.0f} img/s{share}"
        if name.endswith(" overload"):
            yield f"{name} goodput {cell['goodput_of_capacity']:.2f}, dead rows {cell['dead_work_rows']:.0f}"


def _several(cells: dict[str, Any]) -> Iterator[str]:
    for name, cell in cells.items():
        yield f"{name}: two engines {cell['instances_of_one']:.2f} x one, two servers {cell['processes_of_one']:.2f} x"


def _score(cells: dict[str, Any]) -> Iterator[str]:
    ratios = [value for cell in cells.values() for name, value in cell.items() if name.startswith("embed / score")]
    if ratios:
        yield f"a score costs {np.median(ratios):.1f} embeddings (median)"
    if reload := cells.get("reload under load"):
        yield f"reload {reload['seconds_to_answer']:.1f} s, {reload['failed']:.0f} calls failed"


def _train(cells: dict[str, Any]) -> Iterator[str]:
    if trained := cells.get("training"):
        yield f"{trained['epochs']} of {trained['epochs_of_recipe']} epochs in {trained['minutes']:.1f} min"
    for cell, figure in (("linear probe", "linear"), ("kNN", "knn_20")):
        if cell in cells:
            yield f"{cell} {cells[cell][figure]:.4f}"


def terminal(out: Path, stages: Iterable[str]) -> Table:
    """For people at a terminal."""
    table = Table(title=f"GPU: {out}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for line in lines(out, stages):
        table.add_row(*line)
    return table


def markdown(out: Path, stages: Iterable[str]) -> str:
    """For README."""
    rows = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    rows += [f"| {' | '.join(line)} |" for line in lines(out, stages)]
    return "\n".join(rows)
