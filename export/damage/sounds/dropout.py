"""Nothing for a while, or several times."""

from __future__ import annotations

from export.damage.parts import Given, Row, between, length

SHORTEST, LONGEST = 0.03, 0.4
"""Shares of the clip, all together."""


def dropout(given: Given) -> Row:
    """One to four pieces of silence."""
    x_T, rng, num = given.row.copy(), given.rng, length(given.row)
    pieces = int(rng.integers(1, 5))
    size = max(1, round(between(SHORTEST, LONGEST, given.severity) * num / pieces))
    for start in rng.integers(max(1, num - size + 1), size=pieces):
        x_T[start : start + size] = 0
    return x_T
