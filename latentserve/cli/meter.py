"""How far a command is: a line on standard error that is written anew, if somebody watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

EVERY_SECONDS = 0.2


class Meter:
    """Counts items.

    Args:
        total: how many there are; None: only the end tells.
        stream: where to write, if somebody watches it; default: standard error.
        lines_every: seconds between lines where nobody watches, for a log; None: no lines.
    """

    def __init__(self, total: int | None, stream: TextIO | None = None, lines_every: float | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._every = EVERY_SECONDS if self._shown else lines_every
        self._began = self._last = time.monotonic()
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def count(self, items: int = 1) -> None:
        """So many more are done."""
        self.done += items
        now = time.monotonic()
        if self._every is not None and now - self._last >= self._every:
            self._last = now
            self._stream.write(f"\r\033[K{self.line(now)}" if self._shown else f"{self.line(now)}\n")
            self._stream.flush()

    def line(self, now: float) -> str:
        """Done, rate and the time that is left."""
        rate = self.done / max(now - self._began, 1e-9)
        if self._total is None:
            return f"{self.done:,} items, {rate:,.0f}/s"
        left = (self._total - self.done) / rate if rate else 0.0
        return f"{self.done:,} of {self._total:,} items, {rate:,.0f}/s, {_clock(left)} left"

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
