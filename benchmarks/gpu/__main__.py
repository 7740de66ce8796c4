"""Measures a GPU, all stages in one command.

    python -m benchmarks.gpu                      `make gpu`: all stages, about 12 minutes, into docs/results/gpu
    python -m benchmarks.gpu --stages facts,parity --minutes 2 --out FOLDER
    python -m benchmarks.gpu --prepare FOLDER     makes on a CPU what is needed, for a GPU lent by the minute
    python -m benchmarks.gpu --rehearse           `make gpu-rehearsal`: the same code on the CPU, small
    python -m benchmarks.gpu --table              what is recorded, as Markdown

Each stage has its own process, its own share of the time and its own JSON. One that fails says why, and the next one
runs; what is measured is not measured again, unless by --again or on another GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.gpu import prepared
from benchmarks.gpu.cells import Record, one_line, read_record, write_record
from benchmarks.gpu.machine import Machine, NoGpu, this_machine
from benchmarks.gpu.stage import CANNOT_WRITE, INTERRUPTED, WEIGHTS
from benchmarks.gpu.table import markdown, terminal
from benchmarks.processes.session import child_pids
from training.running.revision import git_revision

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "gpu"
LENT, BUNDLES, REHEARSED = Path(".gpu/bundles"), Path("build/gpu/bundles"), Path("build/gpu/rehearsal")
REHEARSED_BUNDLES = Path("build/gpu/rehearsal-bundles")
"""With few detectors: nobody shall measure a GPU on them."""
REHEARSED_DETECTORS = "mahalanobis", "knn", "input_knn"
OF_BUNDLES, OF_ENCODERS = {"parity", "score"}, {"engine", "serve", "several"}
"""Stages that want what `prepared` makes; it is made before their time begins."""
GRACE_SECONDS = 20.0
"""How long a stage may go on after its time, for the cell that it is in; a cell that hangs is then interrupted."""
REHEARSAL_MINUTES = 6.0
PR_SET_CHILD_SUBREAPER = 36
"""Source: <linux/prctl.h>."""


@dataclass(frozen=True)
class Options:
    """Measures a GPU, stage after stage.

    Attributes:
        stages: names of stages, separated by commas; default: all.
        minutes: time for all stages together.
        out: folder for the figures; default: docs/results/gpu, in the rehearsal build/gpu/rehearsal.
        bundles: folder of the prepared bundles; default: .gpu/bundles if it is there, else build/gpu/bundles, in the
            rehearsal build/gpu/rehearsal-bundles.
        again: measure again what is already measured.
        rehearse: run on the CPU with small sizes, to see that everything runs.
        prepare: make the bundles in this folder, and no more.
        table: print what is recorded, measure nothing.
    """

    stages: str = ",".join(WEIGHTS)
    minutes: float | None = None
    out: Path | None = None
    bundles: Path | None = None
    again: bool = False
    rehearse: bool = False
    prepare: Path | None = None
    table: bool = False


def main(options: Options) -> int:
    """Returns 0 if no stage failed and all requirements on the figures hold; 2 where nothing can be measured."""
    try:
        stages = chosen(options.stages)
        if options.minutes is not None and not options.minutes > 0:
            raise ValueError(f"minutes: got {options.minutes:g}, expected above 0")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = options.out or (REHEARSED if options.rehearse else RESULTS)
    if options.table:
        print(markdown(out, stages))
        return 0
    if options.prepare is not None:
        return prepare_only(options.prepare)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the stages are told, too
    own_orphans()
    try:
        machine = this_machine(options.rehearse)
        out.mkdir(parents=True, exist_ok=True)
        with alone(out):
            print(f"{machine.name}: {', '.join(stages)}; figures under {out}", flush=True)
            made_here = REHEARSED_BUNDLES if options.rehearse else BUNDLES
            bundles = options.bundles or (LENT if LENT.is_dir() else made_here)
            prepare(stages, machine, bundles)
            return run_all(stages, machine, replace(options, bundles=bundles), out)
    except (NoGpu, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what is measured is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED


def prepare_only(folder: Path) -> int:
    """For another machine; the exit status."""
    from benchmarks.gpu import preparing
    from training.running.checkpoint import CheckpointError

    try:
        made = preparing.prepare(folder)
    except (OSError, CheckpointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return CANNOT_WRITE
    print(f"{len(made)} bundles under {folder}")
    return 0


def prepare(stages: list[str], machine: Machine, folder: Path) -> None:
    """Makes what these stages want. What cannot be made is a line here, and the stage that misses it fails alone."""
    models = prepared.models_of(machine) if OF_BUNDLES & set(stages) else []
    encoders = prepared.encoders_of(machine) if OF_ENCODERS & set(stages) else ()
    if not prepared.lacking(folder, models, encoders):
        return
    from benchmarks.gpu import preparing  # imported here: torch and Lightning take ten seconds

    try:
        preparing.prepare(folder, models, machine.choose((), REHEARSED_DETECTORS))
        preparing.prepare_encoders(folder, encoders)
    except Exception as error:  # a full disk, whatever torch, Lightning and ONNX make of it
        print(f"bundles: {folder}: {one_line(error)}", file=sys.stderr)


def own_orphans() -> None:
    """What a stage leaves behind when it crashes becomes our child, for `run_one` to end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two at once would measure each other, and write over each other's figures.

    Raises:
        OSError: another process is at it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OSError(f"out: {folder} is another run's that is not over, expected one of its own") from error
    finally:
        os.close(descriptor)


def chosen(text: str) -> list[str]:
    """Stages by name, in their order.

    Raises:
        ValueError: no such stage.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in WEIGHTS]
    if unknown or not names:
        raise ValueError(f"stages: got {', '.join(unknown) or 'none'}, expected some of {', '.join(WEIGHTS)}")
    return [name for name in WEIGHTS if name in names]


def run_all(stages: list[str], machine: Machine, options: Options, out: Path) -> int:
    """One stage after another; the time that one leaves goes to the next ones."""
    whole = REHEARSAL_MINUTES if options.rehearse else sum(WEIGHTS[name] for name in stages) / 60
    ends_at = time.monotonic() + 60 * (options.minutes or whole)
    statuses = []
    for number, name in enumerate(stages):
        weights = [WEIGHTS[other] for other in stages[number:]]
        seconds = max(1.0, (ends_at - time.monotonic()) * weights[0] / sum(weights))
        record = read_record(out / f"{name}.json")
        if record is not None and _is_done(record, machine) and not options.again:
            print(f"{name}: done before; --again measures it anew", flush=True)
            continue
        print(f"{name}: {seconds:.0f} s at most", flush=True)
        statuses.append(run_one(name, seconds, machine, options, out))
        if statuses[-1] == INTERRUPTED:
            print("interrupted; what is measured is kept, the same command goes on", file=sys.stderr)
            break
    Console().print(terminal(out, stages))
    return max(statuses, default=0)


def _is_done(record: Record, machine: Machine) -> bool:
    return record.status == "done" and record.machine == machine.name


def run_one(name: str, seconds: float, machine: Machine, options: Options, out: Path) -> int:
    """A stage in its own process; its exit status."""
    command = [sys.executable, "-m", "benchmarks.gpu.stage", name, "--seconds", f"{seconds:.1f}", "--out", str(out)]
    command += ["--bundles", str(options.bundles), "--revision", git_revision()]
    command += [flag for flag, given in (("--rehearse", options.rehearse), ("--again", options.again)) if given]
    others = set(child_pids(os.getpid()))
    process = subprocess.Popen(command)
    try:
        status = process.wait(seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _end(process)
        return _note(name, machine, out, "partial", f"its time was over, and its cell hung: {name} was interrupted", 0)
    except KeyboardInterrupt:  # the process heard it, too
        _end(process)
        return INTERRUPTED
    finally:
        _end_orphans(others)
    if status < 0:
        why = f"ended by {signal.Signals(-status).name}"
        return _note(name, machine, out, "failed", why, 1)
    return status


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, which the stage takes for Ctrl-C; then no more patience."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    process.kill()
    process.wait()


def _end_orphans(others: set[int]) -> None:
    """A stage that ended by itself has ended its server and its training; one that crashed could not.

    Args:
        others: children that we had before.
    """
    while pids := set(child_pids(os.getpid())) - others:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _note(name: str, machine: Machine, out: Path, status: str, why: str, code: int) -> int:
    """Writes into the record what the stage itself could not; the exit status."""
    print(f"{name}: {why}", file=sys.stderr)
    path = out / f"{name}.json"
    record = read_record(path) or Record(name, machine.name, git_revision())
    record.status, record.why = status, why  # type: ignore[assignment]
    try:
        write_record(record, path)
    except OSError as error:
        print(f"{name}: the figures cannot be written: {one_line(error)}", file=sys.stderr)
        return CANNOT_WRITE
    return code


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.gpu")))
