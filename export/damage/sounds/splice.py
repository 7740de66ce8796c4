"""A piece of another clip stands in this one."""

from __future__ import annotations

from export.damage.parts import Given, Row, between, length

SHORTEST, LONGEST = 0.08, 0.6
"""Shares of the clip."""


def splice(given: Given) -> Row:
    """Instead of what was there."""
    x_T, rng = given.row.copy(), given.rng
    num, of_other = length(given.row), length(given.other)
    size = max(1, min(round(between(SHORTEST, LONGEST, given.severity) * num), of_other))
    to, start = int(rng.integers(num - size + 1)), int(rng.integers(of_other - size + 1))
    x_T[to : to + size] = given.other[start : start + size]
    return x_T
