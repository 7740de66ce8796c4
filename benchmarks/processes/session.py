"""The processes of a session and the CPU time they were charged, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def session_pids(session: int) -> list[int]:
    """Processes of a session."""
    return _pids(3, session)


def child_pids(parent: int) -> list[int]:
    """Children of a process."""
    return _pids(1, parent)


def _pids(field: int, value: int) -> list[int]:
    """Processes by a field of their `stat`, counted after the name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[field]) == value:
            found.append(int(path.parent.name))
    return found


def cpu_seconds(session: int) -> float:
    """CPU time of all processes of a session so far."""
    total = 0
    for pid in session_pids(session):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK
