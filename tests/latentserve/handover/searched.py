"""A job whose neighbours are known, for tests of databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.latentserve.bulk.writing import write_job

SIZE, NUM, FAILED = 24, 150, (3, 70)
SOURCES = [f"photos/{number}.png" for number in range(NUM - 2)] + ["o'dd\t\"\\xff\n.png", "größe/ü.png"]


def job(path: Path, dtype: Any = np.float32) -> NDArray[Any]:
    """Writes a job with odd names, errors and scores; returns its rows."""
    rows = np.random.default_rng(0).normal(size=(NUM, SIZE)).astype(dtype)
    rows[NUM - 1] = rows[0] + np.float32(0.5)
    write_job(path, rows, SOURCES, failed=FAILED, part_rows=40, scores=True)
    return rows


def queries() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(5, SIZE)).astype(np.float32)


def brute_force(rows_ND: NDArray[Any], query_D: NDArray[Any], metric: str, count: int) -> list[str]:
    """The sources of the nearest rows, by numpy."""
    rows, query = rows_ND.astype(np.float64), query_D.astype(np.float64)
    if metric == "euclidean":
        distances = np.linalg.norm(rows - query, axis=1)
    else:
        distances = 1 - rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
    distances[list(FAILED)] = np.inf
    return [SOURCES[number] for number in np.argsort(distances)[:count]]
