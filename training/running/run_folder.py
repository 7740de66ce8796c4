"""The folder of a run: a training claims it when it begins, and finds it again when it is resumed."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentserve import records
from latentserve.lock import Held, held
from training.options import check_new_folder
from training.running.run import CHECKPOINT, RESULT, RUN, Run, RunError

RUNS = Path("runs")


@dataclass(frozen=True)
class Found:
    """A run to go on with."""

    folder: Path
    run: Run


def resumed(arguments: Sequence[str]) -> Found | None:
    """The run that a command line wants to go on with, so that no other option must be given again.

    `--run` names it. Where neither a run nor a method is named it is the one in `runs` that is not finished.

    Raises:
        RunError: there is no such run, or more than one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--run")
    try:
        given, others = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:  # whoever reads all options says it better
        return None
    if not given.resume:
        return None
    if given.run:
        return find(Path(given.run))
    if others and not others[0].startswith("-"):
        return None  # the folder is the default one of the method and the data
    waiting = unfinished()
    if len(waiting) != 1:
        raise RunError(f"resume: got no --run, expected one of those not finished: {_listed(waiting)}")
    return find(waiting[0])


def find(folder: Path) -> Found:
    """Raises RunError if there is no run."""
    try:
        return Found(folder, records.read(Run, folder / RUN))
    except (FileNotFoundError, NotADirectoryError):
        message = f"resume: got no run in {folder}, expected one of those not finished: {_listed(unfinished())}"
        raise RunError(message) from None
    except records.RecordError as error:
        raise RunError(f"{folder / RUN}: {error}") from error


def unfinished() -> list[Path]:
    """Runs in the default place that have not been trained to their end."""
    return sorted(path.parent for path in RUNS.glob(f"*/{RUN}") if not (path.parent / RESULT).exists())


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders)) or f"none in {RUNS}/"


def check_folder(folder: Path, resume: bool) -> None:
    """Checks a run's folder before any work.

    Raises:
        RunError: there is a run already, or none to go on with.
        OptionError: it cannot be written to.
    """
    check_new_folder("run", folder)
    if (folder / CHECKPOINT).exists() and not (folder / RUN).exists():
        raise RunError(f"{folder}: got {CHECKPOINT} without {RUN}, which says whose it is; pass another --run")
    if resume:
        find(folder)
    elif (folder / RUN).exists():
        raise RunError(f"{folder}: there is a run already; pass --resume to go on with it, or another --run")


@contextlib.contextmanager
def claimed(folder: Path, run: Run, resume: bool) -> Iterator[None]:
    """Writes run.json, or checks that the folder holds this very run; nobody else trains there meanwhile.

    Raises:
        RunError: another training is at work there, or another run lies there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(folder))
        except Held:
            raise RunError(f"{folder}: another training is at work there; wait for it, or pass another --run") from None
        check_folder(folder, resume)
        if not resume:
            records.write(run, folder / RUN)
        elif other := records.differences(run.identity, find(folder).run.identity):
            raise RunError(f"{folder}: the run there has another config: {'; '.join(other)}")
        yield
