"""The figures of a stage: cells with a name each, written to JSON as soon as they are known."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Figures = dict[str, Any]
Status = Literal["running", "done", "partial", "failed"]
LONGEST_LINE = 300


@dataclass
class Record:
    """What a stage's JSON holds.

    Attributes:
        stage: its name.
        machine: what was measured, so that another machine's figures are not taken for this one's.
        revision: of the code that measured, with `+dirty` if it was changed.
        status: `partial`: cells are left for another time.
        why: the status, in one line.
        seconds: wall-clock, of all runs that added to it.
        cells: figures by cell; of one that failed, `error`.
        checks: requirements on the figures: see `benchmarks.gpu.check.Check`.
    """

    stage: str
    machine: str
    revision: str
    status: Status = "running"
    why: str = ""
    seconds: float = 0.0
    cells: dict[str, Figures] = field(default_factory=dict)
    checks: list[Figures] = field(default_factory=list)


class NotWritten(OSError):
    """A record could not be written: the disk is full, or the folder is read-only."""


def read_record(path: Path) -> Record | None:
    """What is there already; None if there is nothing or it cannot be read."""
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(record: Record, path: Path) -> None:
    """Replaces the file as a whole, so that a full disk or Ctrl-C leaves the one before.

    Raises:
        NotWritten: it cannot be written.
    """
    text = json.dumps(vars(record), indent=2, default=_number)
    beside = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise NotWritten(*error.args) from error


def _number(value: Any) -> Any:
    """What JSON knows of a number of numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"figures: got {type(value).__name__}, expected a number, a text, a list or a dict")


class Cells:
    """Measures cells within a time box, each at most once.

    Args:
        record: of the stage; grows.
        path: of its JSON.
        seconds: of the time box.
        say: hears of each cell in one line.
        again: what is measured is measured anew, and what was trained is trained anew.
    """

    def __init__(
        self, record: Record, path: Path, seconds: float, say: Callable[[str], None], again: bool = False
    ) -> None:
        self.again = again
        self.record = record
        self.left: list[str] = []
        self._path = path
        self._say = say
        self._ends_at = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Of the time box."""
        return self._ends_at - time.monotonic()

    def measure(self, name: str, figures: Callable[[], Figures]) -> Figures | None:
        """The figures of a cell: those that are there, or else measured now.

        A cell that fails is one line and does not end the stage. None where there are no figures: it failed, or there
        was no time for it.
        """
        found = self.record.cells.get(name)
        if found is not None and "error" not in found:
            return found
        if self.seconds_left <= 0:
            self.left.append(name)
            return None
        started = time.monotonic()
        try:
            cell = figures()
        except Exception as error:  # whatever a device, a driver or a library raises
            cell = {"error": one_line(error)}
        cell["seconds"] = round(time.monotonic() - started, 2)
        self.record.cells[name] = cell
        write_record(self.record, self._path)
        self._say(f"{name}: {shown(cell)}")
        return None if "error" in cell else cell


def shown(cell: Figures) -> str:
    """A cell in one line."""
    if "error" in cell:
        return f"FAILED: {cell['error']}"
    return "  ".join(f"{name} {_value(value)}" for name, value in cell.items() if not isinstance(value, dict))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def one_line(error: BaseException) -> str:
    """What went wrong, without the rest of the page that some libraries write."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 3] + "..."
