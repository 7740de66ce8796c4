"""Whether the machine is ours: on a shared one a server falls behind for reasons that are none of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.soak.ledger import Excuse

LOOK_SECONDS = 5.0
MOST_SHARE = 0.25
"""Of all cores that others may take. At 70 % load that leaves the server and its clients what they need."""
OVERLOADED = frozenset({"4", "8"})
"""DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED: what an overloaded server answers, and nothing else."""
RECOVERS_SECONDS = 10.0
"""What waited meanwhile is answered, or shed, that much later."""


class Others:
    """What processes other than ours take of the machine's cores.

    Args:
        ours: process ids of the server and its clients.

    Attributes:
        excuses: spans in which others took more than their share.
    """

    def __init__(self, *ours: int) -> None:
        self._ours = ours
        self._last = (time.monotonic(), *self._ticks())
        self.excuses: list[Excuse] = []
        self.seconds_taken = 0.0

    def look(self) -> None:
        """To be called often; looks back on the last few seconds."""
        start, busy_before, all_before, ours_before = self._last
        now = time.monotonic()
        if now - start < LOOK_SECONDS:
            return
        busy, every, ours = self._ticks()
        self._last = (now, busy, every, ours)
        share = (busy - busy_before - (ours - ours_before)) / max(every - all_before, 1)
        if share > MOST_SHARE:
            self.seconds_taken += now - start
            self.excuses.append(
                Excuse("other work took the machine's cores", start, now + RECOVERS_SECONDS, OVERLOADED)
            )

    def _ticks(self) -> tuple[int, int, int]:
        """Of all cores: busy, and at all; and of our processes."""
        user, nice, system, idle, wait, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        busy = user + nice + system + sum(rest[:3])
        ours = 0
        for pid in self._ours:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ours += int(fields[11]) + int(fields[12])
        return busy, busy + idle + wait, ours


def others(server_pid: int) -> Others:
    """Others than the server and this process."""
    return Others(server_pid, os.getpid())
