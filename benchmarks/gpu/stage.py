"""One stage, in a process of its own: a crash, a leak or a device that hangs ends with it, and no other stage.

python -m benchmarks.gpu.stage NAME --seconds N --out FOLDER --bundles FOLDER [--rehearse] [--again]
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.gpu.cells import Cells, NotWritten, Record, one_line, read_record, write_record
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine, NoGpu, this_machine

WEIGHTS = {"facts": 5, "parity": 45, "engine": 85, "serve": 130, "several": 45, "score": 35, "train": 420}
"""Stages in their order; how time is shared among those that are asked for, in seconds of a full run."""
SIGNALS = signal.SIGINT, signal.SIGTERM
INTERRUPTED, CANNOT_WRITE = 130, 74
"""Exit statuses: as shells give it for Ctrl-C; sysexits' EX_IOERR."""


@dataclass(frozen=True)
class Options:
    """Runs one stage.

    Attributes:
        name: name of the stage.
        seconds: length of its time box.
        out: folder for the JSON.
        bundles: folder of the prepared bundles.
        rehearse: run on the CPU, with small sizes.
        again: measure again what is already measured.
        revision: revision of the code, for the record.
    """

    name: Annotated[str, tyro.conf.Positional]
    seconds: float
    out: Path
    bundles: Path
    rehearse: bool = False
    again: bool = False
    revision: str = ""


Run = Callable[[Machine, Path, Cells], list[Check]]


def main(options: Options) -> int:
    """Runs the stage; returns 0 if it is done or has only run out of time, and every check holds."""
    for number in SIGNALS:
        signal.signal(number, _end)
    try:
        machine = this_machine(options.rehearse)
    except NoGpu as error:
        print(f"{options.name}: {one_line(error)}", file=sys.stderr)
        return 2
    try:
        return run_stage(partial(_run, options.name), machine, options)
    except NotWritten as error:
        print(f"{options.name}: the figures cannot be written: {error}", file=sys.stderr)
        return CANNOT_WRITE


def _end(*_: object) -> None:
    """The first signal ends the stage, as Ctrl-C does; while it puts things away, no other one is heard."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(name: str, machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """A package that a stage wants and that is not installed ends that stage alone, with its name on record."""
    checks: list[Check] = importlib.import_module(f"benchmarks.gpu.{name}").run(machine, folder, cells)
    return checks


def run_stage(run: Run, machine: Machine, options: Options) -> int:
    """Runs a stage over what is there already.

    Raises:
        NotWritten: its figures cannot be written.
    """
    path = options.out / f"{options.name}.json"
    record = _begun(path, machine, options)
    started = time.monotonic()
    say = partial(print, f"  {options.name}:", flush=True)
    cells = Cells(record, path, options.seconds, say, options.again)
    status = 0
    try:
        checks = run(machine, options.bundles, cells)
        record.checks = [asdict(check) for check in checks]
        failed = [name for name, cell in record.cells.items() if "error" in cell]
        red = [check.name for check in checks if not check.holds and check.got is not None]
        record.status = "failed" if failed or red else "partial" if cells.left else "done"
        record.why = _why(failed, red, cells.left)
        status = int(record.status == "failed")
    except KeyboardInterrupt:
        record.status, record.why, status = "partial", "interrupted", INTERRUPTED
    except NotWritten:
        raise
    except Exception as error:  # whatever a device, a driver or a library raises
        record.status, record.why, status = "failed", one_line(error), 1
    record.seconds = round(record.seconds + time.monotonic() - started, 1)
    write_record(record, path)
    return status


def _begun(path: Path, machine: Machine, options: Options) -> Record:
    """What this machine measured before, or nothing."""
    before = read_record(path)
    if before is None or before.machine != machine.name or options.again:
        return Record(options.name, machine.name, options.revision)
    before.status = "running"
    return before


def _why(failed: list[str], red: list[str], left: list[str]) -> str:
    parts = [f"failed: {', '.join(failed)}"] if failed else []
    parts += [f"below requirement: {', '.join(red)}"] if red else []
    parts += [f"no time left for {len(left)} cells, {left[0]} the first"] if left else []
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.gpu.stage")))
