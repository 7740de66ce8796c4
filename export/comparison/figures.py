"""One figure of both bundles, and which is better in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.evaluation.intervals import Interval

Better = Literal["A", "B", "tie", ""]


@dataclass(frozen=True)
class Figure:
    """One figure of both.

    Attributes:
        name: what was measured.
        a: of A, or None where it has none.
        b: of B.
        interval: 95 % confidence interval of a - b, of costs of a / b; empty where there is none.
        better: the one that the interval says is better; `tie` where it does not; empty where there is none.
    """

    name: str
    a: float | None
    b: float | None
    interval: tuple[float, ...] = ()
    better: Better = ""


def compared(name: str, a: float, b: float, interval: Interval, higher_is_better: bool = True) -> Figure:
    """A figure whose difference has an interval: a tie if that holds 0."""
    return Figure(name, a, b, interval, _better(interval, 0.0, higher_is_better))


def cheaper(name: str, a: float, b: float, interval: Interval) -> Figure:
    """A cost whose ratio has an interval: a tie if that holds 1."""
    return Figure(name, a, b, interval, _better(interval, 1.0, False))


def _better(interval: Interval, equal: float, higher_is_better: bool) -> Better:
    low, high = interval
    if low <= equal <= high:
        return "tie"
    return "A" if (low > equal) == higher_is_better else "B"
