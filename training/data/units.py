"""Sampling units: rows that must stay together because they are the same picture, or of one recording.

If a copy of a training row calibrates, the calibration scores are those of rows that were trained on, and new pictures
get p-values that are too small: with every file four times in a folder 74 % of new pictures were flagged at alpha 5 %.
Two rules keep the promise for a *new* unit (docs/adr/0014):

 1. A unit lies whole on one side of a split; which side is drawn over units, not rows, so that a unit of many rows is
    as likely to calibrate as one of a single row.
 2. Of each unit that is split off one row stays, drawn at random. Then the rows that calibrate are exchangeable with a
    row of a new unit drawn the same way, and p-values, guarantees and bands hold as they stand, n being units.

Source: Dunn, Wasserman and Ramdas, Distribution-free prediction sets for two-layer hierarchical models, J. American
Statistical Association 118 (2023) 2491, https://arxiv.org/abs/1809.07441 (subsampling once).

Shape legend: N rows, G units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.data.digests import digest_of
from training.data.lazy import Lazy

Units = NDArray[np.int64]
"""[N], the unit of each row; any whole numbers."""
FEWEST_UNITS = 3
"""One for each split."""
LARGE_SHARE = 0.1
"""A unit of so many rows (as many as a split) is what most inputs look like: a camera that froze, silence. It stays in
training, for an encoder that has never met it would give it high scores."""
FEW_LARGE_UNITS = 0.01
"""But only one, or while they are at most this share of the units: what is never drawn is not promised anything."""


def equal_rows(values: NDArray[Any]) -> Units | None:
    """The same number for rows that are equal to the last bit; None if no two are."""
    digests = row_digests(values)
    numbers: dict[bytes, int] = {}
    units_N = np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], np.int64)
    return units_N if len(numbers) < len(digests) else None


def row_digests(values: NDArray[Any]) -> list[bytes]:
    """16 bytes for each row, equal only if the rows are."""
    rows: object = values
    return rows.digests() if isinstance(rows, Lazy) else [digest_of(row) for row in values]


def merged(one_N: Units | None, other_N: Units | None) -> Units | None:
    """Rows stay together that either says belong together, and what hangs together through others does too."""
    if one_N is None or other_N is None:
        return other_N if one_N is None else one_N
    one, other = (np.unique(units_N, return_inverse=True)[1] for units_N in (one_N, other_N))
    num = len(one)
    # a graph whose nodes are the rows, the units of one and those of the other
    ends = np.concatenate([num + one, num + one.max() + 1 + other])
    return components(np.tile(np.arange(num), 2), ends, int(ends.max()) + 1)[:num]


def components(starts: NDArray[Any], ends: NDArray[Any], num_nodes: int) -> Units:
    """Which connected component each node of a graph lies in, int64 [num_nodes]."""
    graph = coo_array((np.ones(len(starts), np.bool_), (starts, ends)), shape=(num_nodes, num_nodes))
    found: Units = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def count(units_N: Units | None, num_rows: int) -> int:
    """How many units so many rows are of; without units each row is one."""
    return num_rows if units_N is None else len(np.unique(units_N))


def drawn(units_N: Units | None, order_N: NDArray[Any], num_units: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """One row of each of so many units, and all rows of the other units.

    Args:
        units_N: None: each row is a unit. So it is, too, where all rows are of one unit: there is nothing to draw.
        order_N: the rows in random order, which draws units, and the row of each.
        num_units: to draw; one at least is left.

    Returns:
        Rows in the order of `order_N`.
    """
    if units_N is None or (num_all := count(units_N, len(units_N))) < 2:
        return order_N[:num_units], order_N[num_units:]
    # A unit's place in the draw is that of its first row in the set: that of any of its rows would favour large ones.
    first = np.zeros(len(units_N), np.bool_)
    first[np.unique(units_N, return_index=True)[1]] = True
    candidates = units_N[order_N[first[order_N]]]
    names, sizes = np.unique(units_N, return_counts=True)
    large = names[sizes >= LARGE_SHARE * len(units_N)]
    if len(large) <= max(1, FEW_LARGE_UNITS * num_all):
        candidates = candidates[~np.isin(candidates, large)]
    chosen = candidates[: min(num_units, num_all - 1)]
    mask = np.isin(units_N[order_N], chosen)
    of_chosen, rest = order_N[mask], order_N[~mask]
    one_each = np.sort(np.unique(units_N[of_chosen], return_index=True)[1])
    return of_chosen[one_each], rest
