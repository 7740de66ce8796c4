"""Qdrant returns the neighbours that numpy finds. Runs where qdrant-client is installed (extra `qdrant`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra `bulk`")
qdrant_client = pytest.importorskip("qdrant_client", reason="the extra `qdrant`")

from latentserve.cli.main import main  # noqa: E402
from tests.latentserve.bulk.writing import write_job  # noqa: E402
from tests.latentserve.handover.searched import FAILED, NUM, SIZE, SOURCES, brute_force, job, queries  # noqa: E402


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_its_neighbours_are_those_of_numpy(metric: str, dtype: Any) -> None:
    rows = job(Path("out.parquet"), dtype)
    assert main(["convert", "out.parquet", "--to", "qdrant:data", "--metric", metric]) == 0
    client = qdrant_client.QdrantClient(path="data")
    try:
        assert client.count("embeddings").count == NUM - len(FAILED)
        for query in queries():
            found = client.query_points("embeddings", query=query.tolist(), limit=20).points
            assert [one.payload["source"] for one in found] == brute_force(rows, query, metric, 20)
    finally:
        client.close()


def test_given_again_no_point_is_there_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = job(Path("out.parquet"))
    write_job(Path("some.parquet"), rows[:80] + 1, SOURCES[:80], scores=True)
    for name in ("some.parquet", "out.parquet", "out.parquet"):
        assert main(["convert", name, "--to", "qdrant:data", "--name", "mine", "--metric", "euclidean"]) == 0
    client = qdrant_client.QdrantClient(path="data")
    points, _ = client.scroll("mine", limit=999, with_vectors=True)
    client.close()
    found = {one.payload["source"]: one for one in points}
    assert sorted(found) == sorted(SOURCES), "the two that failed are the earlier job's"
    assert len(points) == len(found)
    np.testing.assert_array_equal(np.array(found["photos/1.png"].vector, np.float32), rows[1])
    assert found["photos/1.png"].payload["flagged"] is False
    capsys.readouterr()

    def told(name: str, metric: str = "euclidean") -> str:
        assert main(["convert", name, "--to", "qdrant:data", "--name", "mine", "--metric", metric]) == 1
        return capsys.readouterr().err

    assert told("out.parquet", "cosine") == (
        f"error: to: got qdrant:data, collection mine of {SIZE} numbers by Euclid, expected {SIZE} numbers by Cosine,"
        " or another --name\n"
    )
    monkeypatch.setattr("tests.latentserve.bulk.writing.SPACE", "es-b")
    job(Path("other.parquet"))
    assert told("other.parquet") == (
        "error: embedding_space: got 'es-fake' in qdrant:data, collection mine, expected 'es-b', that of the job,"
        " or another --name\n"
    )


def test_no_server_there(capsys: pytest.CaptureFixture[str]) -> None:
    job(Path("out.parquet"))
    assert main(["convert", "out.parquet", "--to", "qdrant:http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == (
        "error: to: got qdrant:http://127.0.0.1:1, expected a Qdrant that answers ([Errno 111] Connection refused)\n"
    )
