"""Embeddings are numbers, of every row: one that is not would make its detectors' scores none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.graphs import ExportError
from latentserve import records
from training.data.rows import Rows


def check_finite(embedding_ND: NDArray[Any], rows: Rows, split: str, start: int = 0) -> None:
    """Raises ExportError, which names the first row whose embedding is NaN or infinite.

    Args:
        embedding_ND: of some of the rows.
        rows: all of them, with the names of their files, if they have any.
        split: what to call a row that has none.
        start: the first row that the embedding is of.
    """
    (wrong,) = np.nonzero(~np.isfinite(embedding_ND).all(axis=1))
    if len(wrong):
        row = start + int(wrong[0])
        name = f"{split} row {row}" if rows.names_N is None else records.printable(str(rows.names_N[row]))
        raise ExportError(f"{name}: its embedding is not finite; no bundle was written")
