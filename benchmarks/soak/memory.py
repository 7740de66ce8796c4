"""The memory of a process over time, and whether it grows."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.soak.machine import Others

BLOCKS = 12
"""Of samples, whose means are taken as independent: one sample is like the one before it."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Growth:
    """A straight line through what was sampled.

    Attributes:
        mb_per_hour: its slope.
        low: lower end of its 95 % confidence interval.
        high: upper end of it.
        start_mb: resident memory when sampling began.
        end_mb: when it ended.
        hours: in between.
    """

    mb_per_hour: float
    low: float
    high: float
    start_mb: float
    end_mb: float
    hours: float


class Samples:
    """Resident memory of a process, and what others do to the machine, whenever it is asked for."""

    def __init__(self, pid: int, others: Others) -> None:
        self.others = others
        self._file = Path(f"/proc/{pid}/statm")
        self._samples: list[tuple[float, float]] = []

    def take(self) -> None:
        """One more."""
        self.others.look()
        pages = int(self._file.read_text().split()[1])
        self._samples.append((time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    def growth(self, since: float) -> Growth:
        """Of the samples taken since that moment, monotonic seconds."""
        return growth([one for one in self._samples if one[0] >= since])


def growth(samples: list[tuple[float, float]]) -> Growth:
    """Of samples of seconds and MB; the interval is infinite where there are too few for one."""
    if len(samples) < 2:
        only = samples[0][1] if samples else math.nan
        return Growth(0.0, -math.inf, math.inf, only, only, 0.0)
    seconds, mb = np.array(samples).T
    hours = (seconds - seconds[0]) / 3600
    blocks = np.array_split(np.arange(len(samples)), min(BLOCKS, len(samples)))
    x, y = (np.array([values[block].mean() for block in blocks]) for values in (hours, mb))
    slope = float(np.polyfit(x, y, 1)[0])
    reach = math.inf
    if len(blocks) > 2:
        fitted = stats.linregress(x, y)
        reach = float(fitted.stderr * stats.t.ppf((1 + CONFIDENCE) / 2, len(blocks) - 2))
    return Growth(slope, slope - reach, slope + reach, float(mb[0]), float(mb[-1]), float(hours[-1]))
