"""A piece of the clip runs backwards."""

from __future__ import annotations

from export.damage.parts import Given, Row, between, length

SHORTEST, LONGEST = 0.15, 0.6
"""Shares of the clip."""


def backwards(given: Given) -> Row:
    """Never all of it: whole clips backwards are a set that judges. Padding stays at the end."""
    x_T, num = given.row.copy(), length(given.row)
    size = max(2, round(between(SHORTEST, LONGEST, given.severity) * num))
    start = int(given.rng.integers(max(1, num - size + 1)))
    x_T[start : start + size] = given.row[start : start + size][::-1]
    return x_T
