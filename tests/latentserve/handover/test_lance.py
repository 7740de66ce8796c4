"""LanceDB returns the neighbours that numpy finds. Runs where lancedb is installed (extra `lancedb`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra `bulk`")
lancedb = pytest.importorskip("lancedb", reason="the extra `lancedb`")

from latentserve.cli.main import main  # noqa: E402
from latentserve.handover import lance  # noqa: E402
from tests.latentserve.bulk.writing import damage, write_job  # noqa: E402
from tests.latentserve.handover.searched import FAILED, NUM, SIZE, SOURCES, brute_force, job, queries  # noqa: E402

METRICS = {"cosine": "cosine", "euclidean": "l2"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_its_neighbours_are_those_of_numpy(dtype: Any) -> None:
    rows = job(Path("out.parquet"), dtype)
    assert main(["convert", "out.parquet", "--to", "lancedb:data"]) == 0
    table = lancedb.connect("data").open_table("embeddings")
    assert table.count_rows() == NUM - len(FAILED)
    for metric, theirs in METRICS.items():
        for query in queries():
            found = table.search(query, vector_column_name="embedding").distance_type(theirs).limit(20).to_list()
            assert [one["source"] for one in found] == brute_force(rows, query, metric, 20)
    (one,) = table.search().where("source = 'photos/1.png'").to_list()
    np.testing.assert_array_equal(np.array(one["embedding"], dtype), rows[1])
    assert one["flagged"] is False


def test_given_again_no_row_is_there_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(lance, "MERGED_ROWS", 50)
    rows = job(Path("out.parquet"))
    write_job(Path("some.parquet"), rows[:80] + 1, SOURCES[:80], scores=True)
    for name in ("some.parquet", "out.parquet", "out.parquet"):
        assert main(["convert", name, "--to", "lancedb:data", "--name", "mine"]) == 0
    table = lancedb.connect("data").open_table("mine").to_arrow()
    sources = table["source"].to_pylist()
    assert sorted(sources) == sorted(SOURCES), "the two that failed are the earlier job's"
    assert table["embedding"][sources.index("photos/1.png")].as_py() == rows[1].tolist()
    capsys.readouterr()
    write_job(Path("wide.parquet"), np.ones((2, SIZE + 1), np.float32), scores=True)
    assert main(["convert", "wide.parquet", "--to", "lancedb:data", "--name", "mine"]) == 1
    assert "error: to: got lancedb:data, table mine of id string, source string" in capsys.readouterr().err
    monkeypatch.setattr("tests.latentserve.bulk.writing.SPACE", "es-b")
    job(Path("other.parquet"))
    assert main(["convert", "other.parquet", "--to", "lancedb:data", "--name", "mine"]) == 1
    assert capsys.readouterr().err == (
        "error: embedding_space: got 'es-fake' in lancedb:data, table mine, expected 'es-b', that of the job,"
        " or another --name\n"
    )


def test_a_broken_part_leaves_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    job(Path("out.parquet"))
    part = Path("out.parquet/part-00002.parquet")
    whole = part.read_bytes()
    damage(part)
    assert main(["convert", "out.parquet", "--to", "lancedb:data"]) == 1
    assert f"error: job: got {part}, expected a part of a job that can be read" in capsys.readouterr().err
    with pytest.raises(ValueError, match="was not found"):
        lancedb.connect("data").open_table("embeddings")
    part.write_bytes(whole)
    assert main(["convert", "out.parquet", "--to", "lancedb:data"]) == 0
    assert lancedb.connect("data").open_table("embeddings").count_rows() == NUM - len(FAILED)
