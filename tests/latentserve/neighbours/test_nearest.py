"""The search beside a brute force that holds everything."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("pyarrow", reason="the extra `bulk`")

from latentserve.bulk import rows as reading
from latentserve.bulk.rows import Place, written
from latentserve.neighbours.nearest import Found, search
from latentserve.neighbours.table import Metric
from tests.latentserve.bulk.writing import write_job

METRICS = get_args(Metric)


def brute_force(rows_ND: NDArray[Any], query_D: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """The textbook's formulas."""
    rows_ND, query_D = rows_ND.astype(np.float64), query_D.astype(np.float64)
    if metric == "euclidean":
        return np.array([np.linalg.norm(row - query_D) for row in rows_ND])
    return np.array([1 - row @ query_D / (np.linalg.norm(row) * np.linalg.norm(query_D)) for row in rows_ND])


def numbers(found: Found, query: int, part_rows: int) -> list[int]:
    """Rows of the whole job."""
    return [one.place.part * part_rows + one.place.row for one in found.nearest[query]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("part_rows", "block_rows"), [(7, 3), (100, 60)])
def test_it_is_what_brute_force_finds(
    metric: Metric, dtype: Any, part_rows: int, block_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_ROWS", block_rows)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 16)).astype(dtype)
    failed = [3, 4, 5, 199]
    queries = rng.normal(size=(3, 16))
    job = written(write_job(tmp_path / "out.parquet", rows, failed=failed, part_rows=part_rows))
    found = search(job, queries, metric, 12)
    assert (found.num_rows, found.num_failed) == (196, 4)
    for number, query in enumerate(queries):
        distances = brute_force(rows, query, metric)
        distances[failed] = np.inf
        expected = np.argsort(distances)[:12]
        assert numbers(found, number, part_rows) == list(expected)
        np.testing.assert_allclose([one.distance for one in found.nearest[number]], distances[expected], rtol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_equal_rows_come_in_their_order_wherever_they_stand(data: st.DataObject) -> None:
    """Rounding in a matrix product depends on where a row stands, and must not decide."""
    metric = data.draw(st.sampled_from(METRICS))
    kinds, num, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 60)), data.draw(st.integers(1, 33))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kind = rng.integers(0, kinds, num)
    rows = (rng.normal(size=(kinds, size)) * 10.0 ** rng.integers(-3, 4))[kind].astype(np.float32)
    count = data.draw(st.integers(1, num + 3))
    with tempfile.TemporaryDirectory() as folder:
        job = written(write_job(Path(folder) / "out.parquet", rows, part_rows=data.draw(st.integers(1, 20))))
        found = search(job, rows[:1] + 0.5, metric, count).nearest[0]
    order = [(one.distance, one.place) for one in found]
    assert order == sorted(order)
    assert len(order) == min(count, num)
    assert len({one.distance for one in found}) <= kinds


def test_a_row_is_no_neighbour_of_its_own(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    rows[[2, 9, 15]] = rows[7]
    job = written(write_job(tmp_path / "out.parquet", rows))
    found = search(job, rows[[7, 7]], "euclidean", 4, [Place(1, 0), None])
    assert numbers(found, 0, 7)[:3] == [2, 9, 15]
    assert numbers(found, 1, 7) == [2, 7, 9, 15]
    assert [one.distance for one in found.nearest[1]] == [0, 0, 0, 0]


def test_a_row_of_zeros_has_no_direction(tmp_path: Path) -> None:
    rows = np.array([[0, 0], [1, 0], [-1, 0], [0, 2]], np.float32)
    found = search(written(write_job(tmp_path / "out.parquet", rows)), np.array([[3.0, 0]]), "cosine", 4)
    assert [(one.distance, one.place.row) for one in found.nearest[0]] == [(0, 1), (1, 0), (1, 3), (2, 2)]


def test_numbers_that_are_not_finite_are_no_embedding(tmp_path: Path) -> None:
    rows = np.array([[0, 1], [np.nan, 0], [np.inf, 0], [1, 0]], np.float32)
    found = search(written(write_job(tmp_path / "out.parquet", rows)), np.array([[1.0, 0]]), "cosine", 4)
    assert (found.num_rows, found.num_failed, numbers(found, 0, 7)) == (2, 2, [3, 0])


def test_large_numbers_do_not_overflow(tmp_path: Path) -> None:
    rows = np.array([[3e38, 0], [0, 3e38], [1e38, 1e38]], np.float32)
    job = written(write_job(tmp_path / "out.parquet", rows))
    for metric in METRICS:
        assert numbers(search(job, rows[2:], metric, 1), 0, 7) == [2]
