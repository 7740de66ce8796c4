"""Splits of a set without a second copy of it: its rows are moved within their own memory.

Shape legend: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def parted(values: NDArray[Any], parts: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Views of an array that is moved about: `values[part]` of each part, which share no row.

    Args:
        values: [N, ...]; in another order afterwards.
        parts: the rows of each.
    """
    left_N = np.ones(len(values), np.bool_)
    for part in parts:
        left_N[part] = False
    _reorder(values, np.concatenate([*parts, np.flatnonzero(left_N)]))
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return [values[end - len(part) : end] for end, part in zip(ends, parts, strict=True)]


def _reorder(values: NDArray[Any], order_N: NDArray[Any]) -> None:
    """`values[:] = values[order_N]` with the memory of one row more: cycle after cycle of the permutation."""
    source = order_N.tolist()
    for start in range(len(source)):
        if source[start] in (start, -1):
            continue
        first, to = values[start].copy(), start
        while source[to] != start:
            come_from = source[to]
            values[to], source[to] = values[come_from], -1
            to = come_from
        values[to], source[to] = first, -1
