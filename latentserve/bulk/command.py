"""`latentserve embed|score INPUT... --to out.parquet/`: the options of a job, and what is told at its end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from latentserve.cli import arguments
from latentserve.cli.meter import Meter
from latentserve.errors import InvalidInput, Unsupported

WELL = 0
PART_ROWS = 1024
"""Rows of a part: what a killed job computes again, and what Ctrl-C waits for."""
NOT_WITH = {
    "out": None,
    "format": None,
    "force": False,
    "maps": False,
    "overlays": None,
    "overlay_every": False,
    "exit_code": False,
    "decision": "per_row",
}
"""Options that a job does not have, and their values where they are not given."""

ON_RAY = {"actors": 0, "actor_cpus": 1, "actor_gpus": 0.0}
"""Options of actors, and what they are by default."""


def run(options: argparse.Namespace, columns: tuple[str, ...]) -> int:
    """Runs a job; returns the exit status.

    Args:
        options: of the command.
        columns: which of `embedding`, `p_value` and `flagged` it fills.
    """
    _check(options)
    check_library("to")
    from latentserve.bulk import engines, folder, job, listing

    asked = engines.Asked(columns, getattr(options, "alpha", None), getattr(options, "guarantee", "marginal"))
    with folder.opened(options.to) as to, _engine(options, asked) as engine:
        part_rows = options.part_rows or (to.found.part_rows if to.found else PART_ROWS)
        this = job.job_of(engine, asked, options.half, part_rows)
        to.check(this)
        items = listing.listed(options.inputs, options.column, options.to)
        to.begin(this)
        rest = job.left(items, to.done())
        with job.Stop() as stop, Meter(len(rest), lines_every=job.SECONDS_OF_A_LINE) as meter:
            tally = job.work(to, this, engine, rest, meter, stop)
        before, seconds = len(items) - len(rest), meter.seconds()
    told = f"{tally.rows:,} items in {seconds:.1f} s"
    flagged = f"{tally.flagged:,} flagged, " if asked.scores else ""
    earlier = f", {before:,} were done before" if before else ""
    print(f"{told}: {flagged}{tally.failed:,} failed{earlier}", file=sys.stderr)
    if tally.stopped:
        missing = len(rest) - tally.rows
        print(f"stopped: {missing:,} of {len(items):,} items are left, the same command goes on", file=sys.stderr)
    return job.STOPPED if tally.stopped else WELL


def check_library(field: str) -> None:
    """Raises Unsupported, naming the field, if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        what = f"{field}: Parquet needs pyarrow, which is missing: pip install 'latentserve[bulk]'"
        raise Unsupported(what) from error


@contextlib.contextmanager
def _engine(options: argparse.Namespace, asked: Any) -> Iterator[Any]:
    if options.ray is None:
        with engine_of(options, asked) as engine:
            yield engine
        return
    from latentserve.bulk import cluster

    pool = cluster.Pool(options.ray, options.actors, options.actor_cpus, options.actor_gpus)
    with cluster.connected(pool, options.bundle, asked, options.device) as engine:
        yield engine


@contextlib.contextmanager
def engine_of(options: argparse.Namespace, asked: Any) -> Iterator[Any]:
    """The bundle in this process, or the server, that the options name (`arguments.with_bundle`)."""
    from latentserve.bulk import engines

    if options.bundle is not None:
        yield engines.local(options.bundle, asked, options.device)
    else:
        with arguments.client(options) as client:
            yield engines.Server(client, options.model, options.version, asked, options.patience)


def _check(options: argparse.Namespace) -> None:
    for name, usual in NOT_WITH.items():
        if getattr(options, name, usual) != usual:
            option = name.replace("_", "-")
            raise InvalidInput(f"{option}: got it beside --to, expected one of them: a job writes rows of its own")
    if options.part_rows is not None and options.part_rows < 1:
        raise InvalidInput.at("part-rows", got=options.part_rows, expected="1 or more")
    check_engine(options)
    if options.ray is not None and options.bundle is None:
        raise InvalidInput("ray: got it without --bundle, expected both: the actors run a bundle")
    for name, default in ON_RAY.items():
        if options.ray is None and getattr(options, name) != default:
            raise InvalidInput(f"{name.replace('_', '-')}: got it without --ray, expected both")


def check_engine(options: argparse.Namespace) -> None:
    """Raises InvalidInput if the options of a bundle or a server cannot be."""
    if not 0 <= options.patience < 1e9:
        raise InvalidInput.at("patience", got=options.patience, expected="seconds, 0 or more")
    if options.bundle is not None:
        for name, default in (("target", arguments.TARGET), ("model", ""), ("version", 0)):
            if getattr(options, name) != default:
                expected = "one of them: a bundle has its own name and version, and needs no server"
                raise InvalidInput(f"{name}: got it beside --bundle, expected {expected}")


def check_alone(options: argparse.Namespace) -> None:
    """Raises InvalidInput if an option of a job is given without one."""
    given = {
        "part-rows": options.part_rows,
        "device": options.device != "auto",
        "bundle": options.bundle,
        "half": options.half,
        "column": options.column,
        "embeddings": getattr(options, "embeddings", False),
        "ray": options.ray,
    }
    for name, value in given.items():
        if value:
            raise InvalidInput(f"{name}: got it alone, expected --to FOLDER.parquet beside it")
