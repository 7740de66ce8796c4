"""The clients' matrix: what clients of other makes, and proxies, get from the running service.

    python -m benchmarks.clients             four minutes on the bundle of `make demo`
    python -m benchmarks.clients --install   brings npm's packages into build/clients before
    python -m benchmarks.clients --record    and writes docs/results/clients.json
    python -m benchmarks.clients --table     prints what is recorded

Every cell is ok, `refused` (the server says that it does not do this, or ends an idle connection), `not run` with the
reason, or `wrong`: another answer than grpcio's blocking client gets, another status, or a call that was lost. Nothing
is needed but what is there: nginx, haproxy and what C++ wants are Debian's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.clients.matrix import CHECKS, Client, Matrix, Row
from benchmarks.clients.programs import install, programs
from benchmarks.clients.proxies import proxies
from benchmarks.clients.running import IDLE_SECONDS
from latentserve import records

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "clients.json"
MODELS = Path("build") / "demo-digits" / "models"
TOOLS = Path("build") / "clients"

Transport = Literal["http2", "grpcio"]


@dataclass(frozen=True)
class Options:
    """Calls a server with clients of other makes, and through proxies.

    Attributes:
        models: model repository with one model of images; `make demo` makes the default one.
        transports: transports of the service.
        clients: names of the clients to run; default: all.
        checks: names of the checks to run.
        idle_seconds: time during which a connection carries only pings; a client sends one every ten seconds.
        tools: folder for npm's packages and of the C++ client.
        install: first install npm's packages there.
        record: write docs/results/clients.json.
        table: print what is recorded instead.
    """

    models: Path = MODELS
    transports: tuple[Transport, ...] = ("http2", "grpcio")
    clients: tuple[str, ...] = ()
    checks: tuple[str, ...] = CHECKS
    idle_seconds: int = IDLE_SECONDS
    tools: Path = TOOLS
    install: bool = False
    record: bool = False
    table: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.checks) - set(CHECKS)):
            raise ValueError(f"checks: got {unknown[0]!r}, expected some of {', '.join(CHECKS)}")


@dataclass(frozen=True)
class Recorded:
    """What is written to docs/results/clients.json: rows by transport."""

    transports: dict[str, tuple[Row, ...]]


def clients(tools: Path, names: tuple[str, ...] = ()) -> list[Client]:
    """Clients, then the first of them through each proxy; those of some names.

    Raises:
        ValueError: a name is nobody's.
    """
    made = programs(tools)
    every = [*(Client(program) for program in made), *(Client(made[0], proxy) for proxy in proxies())]
    known = [client.name for client in every]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"clients: got {unknown[0]!r}, expected some of {', '.join(known)}")
    return [client for client in every if not names or client.name in names]


def main(options: Options) -> int:
    """Prints the table; returns 1 if a cell is wrong."""
    if options.table:
        show(records.read(Recorded, RESULTS))
        return 0
    if not options.models.is_dir():
        raise SystemExit(f"models: got {options.models}, expected a model repository; `make demo` makes one")
    if options.install:
        install(options.tools)
    asking = clients(options.tools, options.clients)
    found: dict[str, tuple[Row, ...]] = {}
    for transport in options.transports:
        with tempfile.TemporaryDirectory() as scratch:
            matrix = Matrix(options.models, transport, asking, options.checks, options.idle_seconds, Path(scratch))
            found[transport] = tuple(matrix.rows())
    recorded = Recorded(found)
    show(recorded)
    if options.record:
        records.write(recorded, RESULTS)
        print(RESULTS)
    return int(any(cell.outcome == "wrong" for rows in found.values() for row in rows for cell in row.cells.values()))


def show(recorded: Recorded) -> None:
    """As Markdown: a table for each transport, and why a cell is not ok below it."""
    for transport, rows in recorded.transports.items():
        names = list(rows[0].cells) if rows else []
        print(f"\n| {transport} | version |", " | ".join(names), "|")
        print("| --- | --- |", " | ".join("---" for _ in names), "|")
        for row in rows:
            print(f"| {row.client} | {row.version} |", " | ".join(cell.outcome for cell in row.cells.values()), "|")
        print(*(["", *lines] if (lines := list(reasons(rows))) else []), sep="\n")


def reasons(rows: Iterable[Row]) -> Iterable[str]:
    """A line for each cell that is not ok."""
    for row in rows:
        for name, cell in row.cells.items():
            if cell.outcome != "ok":
                yield f"- {row.client}, {name}: {cell.outcome}: {cell.why}"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.clients")))
