"""How long a batch takes, learned from the batches that ran."""

from __future__ import annotations

import math
import sys

FORGET = 0.95
"""Weight of the past at each new batch: about the last twenty count."""

SLOW = 1.25
"""A slow batch, in typical ones: with 1.0 a twentieth of all rows were answered too late
(`benchmarks.serving.overload`)."""

ALIKE = 0.1
"""Standard deviation of sizes, in mean sizes. One batch of another size is remembered for some fifty others."""
TRIED = 1.5
"""Size that is tried where batches are alike, in mean sizes: after one such batch they are so no longer."""


class Pace:
    """A line through recent batches: seconds = overhead + per_row x rows, by least squares that forget."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._rows_squared = self._rows_seconds = 0.0

    @property
    def known(self) -> bool:
        """True once a batch has run."""
        return self._weight > 0

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        seconds = max(seconds, 1e-6)
        for name, value in (
            ("_weight", 1.0),
            ("_rows", rows),
            ("_seconds", seconds),
            ("_rows_squared", rows * rows),
            ("_rows_seconds", rows * seconds),
        ):
            setattr(self, name, FORGET * getattr(self, name) + value)

    def seconds(self, rows: float) -> float:
        """What a batch of so many rows will take."""
        overhead, per_row = self._line()
        typical = self._rows / self._weight
        if typical < rows <= self._tried() and self._alike():
            rows = typical
        return overhead + per_row * rows

    def slow_seconds(self, rows: float) -> float:
        """What a batch of so many rows will hardly ever exceed."""
        return SLOW * self.seconds(rows)

    def rows_within(self, seconds: float) -> int:
        """Rows of the largest batch that takes no longer; 1 at least."""
        overhead, per_row = self._line()
        if per_row == 0:
            return sys.maxsize if seconds >= overhead else 1
        within = int((seconds - overhead) / per_row + 1e-6)
        if self._alike() and seconds >= self._seconds / self._weight:
            within = max(within, self._tried())
        return max(1, within)

    def smallest_worth_forming(self, whole: int, share: float, credit: float) -> int:
        """Rows of the smallest batch that wastes no more than that share of its own time, and the credit in seconds.

        What a small batch wastes is the overhead that a whole one would have spread over the rows that now wait.
        """
        overhead, per_row = self._line()
        gained = overhead / whole + share * per_row  # with each row more, in seconds
        missing = overhead * (1 - share) - credit
        return min(max(1, math.ceil(missing / gained - 1e-9)), whole) if missing > 0 else 1

    def _tried(self) -> int:
        """Rows of which it is hoped that they take no longer than the typical ones.

        A queue that never tried more would never learn what more rows cost: batches of one row, for ever.
        """
        return math.ceil(TRIED * self._rows / self._weight)

    def _variance(self) -> float:
        return self._rows_squared / self._weight - (self._rows / self._weight) ** 2

    def _alike(self) -> bool:
        """Whether the sizes of recent batches differ too little to tell a slope."""
        return self._variance() < ALIKE**2 * (self._rows / self._weight) ** 2

    def _line(self) -> tuple[float, float]:
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._variance()
        covariance = self._rows_seconds / self._weight - mean_rows * mean_seconds
        through_origin = mean_seconds / mean_rows
        # Batches all alike tell no slope: then rows alone are what costs, until another size shows otherwise.
        if self._alike():
            return 0.0, through_origin
        # Noise may tell a silly one. A slope that falls means that rows cost nothing, not that they cost everything.
        per_row = min(max(covariance / variance, 0.0), through_origin)
        return mean_seconds - per_row * mean_rows, per_row
