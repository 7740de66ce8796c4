"""What an engine gets from a queue, and what it owes for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from service.scheduling.queue import Tensors, num_rows_of


class Piece(NamedTuple):
    """Rows of one request inside a batch, and the names of the tensors it wants."""

    rows: NDArray[Any]
    wants: frozenset[str]


Execute = Callable[[Sequence[Piece]], Awaitable[Sequence[Tensors]]]
"""Runs a batch: one dict of tensors per piece, each with as many rows as the piece. Raises if it cannot."""


def checked(pieces: Sequence[Piece], results: Sequence[Tensors]) -> Sequence[Tensors]:
    """The results. Raises RuntimeError if they are not as many: somebody would wait for ever, or get another's rows."""
    expected, got = [len(piece.rows) for piece in pieces], [num_rows_of(one) for one in results]
    if got != expected:
        raise RuntimeError(f"engine: got {got} rows for its pieces, expected {expected}")
    return results
