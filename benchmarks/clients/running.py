"""Runs a client program for one check and checks what it heard."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients.asked import PING_SECONDS
from benchmarks.clients.connections import local_ports
from benchmarks.clients.outcomes import Cell, Heard, cell_of, cell_of_stream
from benchmarks.clients.programs import Program
from benchmarks.clients.questions import Asked, Expected, Questions, write
from benchmarks.processes.served import ServedProcess
from latentserve.errors import Code

DEADLINE_MS, CANCEL_MS = 10, 10
"""`many` takes a fifth of a second, and its rows are on their way by then."""
IDLE_SECONDS = 3 * PING_SECONDS + 1
"""Three pings; grpcio's server, left to itself, ends a connection at the third."""
PROGRAM_SECONDS = 90.0
"""A client that takes longer is stuck, and killed."""
UNDER_WAY_SECONDS = 20.0


@dataclass(frozen=True)
class Check:
    """What a client is asked to do.

    Attributes:
        name: for the table.
        verb: of `asked`.
        number: with it.
        asked: the request it is about.
        expected: how each call must end.
    """

    name: str
    verb: str
    number: int
    asked: Asked
    expected: tuple[Expected, ...]


def checks(found: Questions) -> dict[str, Check]:
    """Those that need nothing but a server, by name."""
    small, many = found.small.expected, found.many.expected
    every = (
        Check("unary", "call", 0, found.small, (small,)),
        Check("error", "call", 0, found.unknown, (found.unknown.expected,)),
        Check("deadline", "deadline", DEADLINE_MS, found.many, (small, Expected(Code.DEADLINE_EXCEEDED), small)),
        Check("cancel", "cancel", CANCEL_MS, found.many, (small, Expected(Code.CANCELLED), small)),
        Check("stream", "stream", 0, found.small, ()),
        Check("30 MB", "call", 0, found.large, (found.large.expected,)),
        Check("gzip", "gzip", 0, found.many, (many,)),
    )
    return {check.name: check for check in every}


def run(program: Program, target: str, check: Check, found: Questions, folder: Path, ca: bytes | None = None) -> Cell:
    """Runs one check; its cell of the table."""
    process = Running(program, target, check, found, folder, ca)
    heard = process.finished()
    cell = cell_of_stream(heard, found) if check.verb == "stream" else cell_of(heard, check.expected)
    return process.explained(cell)


def run_idle(program: Program, target: str, seconds: int, found: Questions, folder: Path) -> Cell:
    """An idle connection with pings, which must be the same one afterwards."""
    check = Check("keep-alive", "idle", seconds, found.small, (found.small.expected,) * 2)
    process = Running(program, target, check, found, folder)
    ports: set[int] = set()
    while process.process.poll() is None:
        ports |= local_ports(process.process.pid, int(target.rpartition(":")[2]))
        time.sleep(0.1)
    cell = process.explained(cell_of(process.finished(), check.expected))
    if cell.outcome == "ok" and len(ports) != 1:
        return Cell("refused", f"the idle connection was closed: {len(ports)} were used")
    return cell


def run_drain(program: Program, target: str, server: ServedProcess, found: Questions, folder: Path) -> Cell:
    """Many calls are under way when the server gets SIGTERM: each must be answered, and the server end with 0."""
    expected = (found.small.expected,) + (found.many.expected,) * program.at_once
    check = Check("drain", "many", program.at_once, found.many, expected)
    process = Running(program, target, check, found, folder)
    under_way = reached(lambda: server.metrics()["latentserve_requests_in_flight"] >= program.at_once, process.process)
    if not under_way:
        process.process.kill()
        return process.explained(Cell("wrong", f"{program.at_once} calls were never under way together"))
    start = time.monotonic()
    try:
        status = server.stop()  # which waits for its end: calls go on meanwhile
    except subprocess.TimeoutExpired:  # and killed it
        return process.explained(Cell("wrong", "the server did not end"))
    took = f"the server ended {time.monotonic() - start:.1f} s after SIGTERM"
    cell = process.explained(cell_of(process.finished(), check.expected))
    if cell.outcome == "ok" and status != 0:
        return Cell("wrong", f"the server ended with status {status}")
    return cell if cell.outcome == "ok" else Cell(cell.outcome, f"{cell.why} ({took})")


def reached(done: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Waits until something is so, or the process has ended."""
    end = time.monotonic() + UNDER_WAY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if done():
            return True
        time.sleep(0.01)
    return False


class Running:
    """A client program at work, in a folder of its own."""

    def __init__(
        self, program: Program, target: str, check: Check, found: Questions, folder: Path, ca: bytes | None = None
    ) -> None:
        write(found, check.asked, folder)
        if ca is not None:
            (folder / "ca.pem").write_bytes(ca)
        self._folder = folder
        self._errors = folder / "stderr"
        with (folder / "stdout").open("w") as out, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*program.command, target, str(folder), check.verb, str(check.number)],
                stdout=out,
                stderr=errors,
                text=True,
                env=os.environ | program.environment,
            )
        self._killer = threading.Timer(PROGRAM_SECONDS, self.process.kill)
        self._killer.start()

    def finished(self) -> list[Heard]:
        """Waits for its end; what it heard."""
        self.process.wait()
        self._killer.cancel()
        found = []
        for line in (self._folder / "stdout").read_text().splitlines():
            code, name, message = line.split("\t")
            found.append(Heard(int(code), message, (self._folder / name).read_bytes()))
        return found

    def explained(self, cell: Cell) -> Cell:
        """With the last line that the program complained in, where it failed."""
        self._killer.cancel()
        status, lines = self.process.wait(), self._errors.read_text().strip().splitlines()
        if status == 0 or cell.outcome not in ("ok", "wrong"):
            return cell
        last = lines[-1] if lines else "without a word"
        return Cell("wrong", f"{cell.why} (the client ended with status {status}: {last})".strip())
