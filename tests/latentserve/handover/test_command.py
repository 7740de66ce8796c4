"""`latentserve convert` from the outside: arrays, and what cannot be. Databases have files of their own."""

from __future__ import annotations

import csv
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra `bulk`")

from latentserve.bulk import rows as reading
from latentserve.cli.main import main
from tests.latentserve.bulk.writing import damage, id_of, write_job


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_array_and_the_names_of_its_rows(
    dtype: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "BLOCK_ROWS", 3)
    rows = np.random.default_rng(0).normal(size=(20, 5)).astype(dtype)
    sources = [f"a/{number}.png" for number in range(19)] + ['odd,"\n\\xff.png']
    write_job(Path("out.parquet"), rows, sources, failed=[0, 8], scores=True)
    assert main(["convert", "out.parquet", "--to", "vectors.npy"]) == 0
    kept = [number for number in range(20) if number not in (0, 8)]
    found = np.load("vectors.npy", mmap_mode="r", allow_pickle=False)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows[kept])
    with Path("vectors.csv").open(newline="", encoding="utf-8") as file:
        names = list(csv.DictReader(file))
    assert [one["source"] for one in names] == [sources[number] for number in kept]
    assert names[0] == {"id": id_of(b"1"), "source": "a/1.png", "p_value": str(1 / 6), "flagged": "false"}
    assert "18 rows in " in (told := capsys.readouterr().err)
    assert told.endswith(", 2 without an embedding stay behind\n")
    assert not list(Path().glob(".*"))


def test_no_row_with_an_embedding_is_an_empty_array() -> None:
    write_job(Path("out.parquet"), np.ones((2, 3), np.float32), failed=[0, 1])
    assert main(["convert", "out.parquet", "--to", "vectors.npy"]) == 0
    assert np.load("vectors.npy").shape == (0, 3)


def test_files_that_are_there_stay(capsys: pytest.CaptureFixture[str]) -> None:
    write_job(Path("out.parquet"), np.ones((2, 3), np.float32))
    Path("vectors.csv").write_text("mine")
    Path("table.sql").write_text("mine")
    for to, there in (("vectors.npy", "vectors.csv"), ("table.sql", "table.sql")):
        assert main(["convert", "out.parquet", "--to", to]) == 1
        expected = f"error: to: got {there}, which exists, expected a new file, or --force to write over it\n"
        assert capsys.readouterr().err == expected
        assert Path(there).read_text() == "mine"
        assert main(["convert", "out.parquet", "--to", to, "--force"]) == 0
        assert Path(there).read_text() != "mine"
        capsys.readouterr()


def test_half_an_array_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    write_job(Path("out.parquet"), np.ones((20, 3), np.float32))
    part = Path("out.parquet/part-00002.parquet")
    damage(part)
    for to in ("vectors.npy", "table.sql"):
        assert main(["convert", "out.parquet", "--to", to]) == 1
        assert capsys.readouterr().err.startswith(f"error: job: got {part}, expected a part of a job that can be read")
    assert [one.name for one in Path().iterdir()] == ["out.parquet"]


def test_a_full_disk_is_told_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_job(Path("out.parquet"), np.ones((2000, 8), np.float32), part_rows=2000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        statuses = [main(["convert", "out.parquet", "--to", to]) for to in ("vectors.npy", "table.sql")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert statuses == [1, 1]
    assert capsys.readouterr().err == "error: vectors.npy: File too large\nerror: table.sql: File too large\n"
    assert [one.name for one in Path().iterdir()] == ["out.parquet"]


def test_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    write_job(Path("out.parquet"), np.ones((2, 3), np.float32))

    def told(*given: str) -> str:
        assert main(["convert", *given]) == 1
        assert [one.name for one in Path().iterdir()] == ["out.parquet"]
        return capsys.readouterr().err

    expected = "expected FILE.npy, FILE.sql, lancedb:FOLDER, qdrant:FOLDER or qdrant:http://HOST:6333\n"
    assert told("out.parquet", "--to", "x.lance") == f"error: to: got 'x.lance', {expected}"
    assert told("out.parquet", "--to", "") == f"error: to: got '', {expected}"
    assert told("out.parquet", "--to", "qdrant:") == "error: to: got 'qdrant:', expected qdrant:FOLDER\n"
    assert "to: got nowhere/x.npy, expected a file in a folder that exists" in told(
        "out.parquet", "--to", "nowhere/x.npy"
    )
    assert told("out.parquet", "--to", "x.sql", "--name", "a; DROP") == (
        "error: name: got 'a; DROP', expected small letters, digits and _, at most 63, a digit not first\n"
    )
    assert told("out.parquet", "--to", "x.sql", "--metric", "cosine") == (
        "error: metric: got it beside --to x.sql, expected --to qdrant:...\n"
    )
    assert told("nowhere", "--to", "x.sql").startswith("error: job: got 'nowhere', expected the folder of a job")


@pytest.mark.parametrize(("to", "library"), [("lancedb:x", "lancedb"), ("qdrant:x", "qdrant-client")])
def test_without_its_library(
    to: str, library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(Path("out.parquet"), np.ones((2, 3), np.float32))
    monkeypatch.setitem(sys.modules, library.replace("-", "_"), None)
    assert main(["convert", "out.parquet", "--to", to]) == 1
    extra = library.removesuffix("-client")
    said = capsys.readouterr().err
    assert said.endswith(f"needs {library}, which is missing: pip install 'latentserve[{extra}]'\n")
    assert not Path("x").exists()
