"""`latentserve neighbours` from the outside, by an engine that is no model."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="the extra `bulk`")

from latentserve.bulk import engines
from latentserve.cli.main import main
from tests.latentserve.bulk.answering import FakeEngine
from tests.latentserve.bulk.writing import id_of, write_job

ROWS = np.array([[48, 49, 50, 51], [48, 49, 50, 52], [90, 20, 10, 9], [48, 49, 50, 51]], np.float32) * 1000
"""As the engine embeds `0123`, `0124` and something else."""
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_job(Path("out.parquet"), ROWS, part_rows=2, same=[(0, 3)])
    Path("query.png").write_text("0124")
    Path("second.png").write_text("0123")
    Path("broken.png").write_text("!")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with a bundle that is a fake, of the space `space`; None: no bundle is to be loaded."""

    def ran(*given: str, space: str | None = "es-fake") -> int:
        def local(_: Path, asked: engines.Asked, __: str) -> FakeEngine:
            assert space is not None, "work began"
            engine = FakeEngine(asked)
            engine.model = engines.Model(**(engine.model.__dict__ | {"embedding_space": space}))
            return engine

        monkeypatch.setattr(engines, "local", local)
        return main(["neighbours", *given, "--bundle", "models/fake/1"])

    return ran


def test_the_nearest_of_a_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("out.parquet", "--query", "query.png", "--metric", "euclidean", "--count", "3") == 0
    out, err = capsys.readouterr()
    assert out == (
        "query.png\n   1  0           photos/1.png\n   2  1000        photos/0.png\n   3  1000        photos/3.png\n"
    )
    assert err.startswith("4 rows compared in ")
    assert err.endswith(" s\n")


def test_for_programs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("out.parquet", "--query", "second.png", "query.png", "--count", "2")
    assert run(*given, "--format", "csv") == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(one["query"], one["rank"], one["item"]) for one in found] == [
        *(("second.png", "1", "photos/0.png"), ("second.png", "2", "photos/3.png")),
        *(("query.png", "1", "photos/1.png"), ("query.png", "2", "photos/0.png")),
    ]
    assert float(found[0]["distance"]) == 0
    assert found[2]["id"] == id_of(b"1")
    assert run(*given, "--out", "found.jsonl") == 0
    assert [json.loads(line)["rank"] for line in Path("found.jsonl").read_text().splitlines()] == [1, 2, 1, 2]
    assert run(*given, "--out", "found.jsonl", space=None) == 1
    assert "out: got found.jsonl, which exists, expected a new file" in capsys.readouterr().err


@pytest.mark.parametrize("name", [id_of(b"0"), "photos/0.png"])
def test_the_nearest_of_a_row_need_no_model(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("out.parquet", "--query-id", name, "--count", "99", space=None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photos/0.png"
    assert [line.split()[-1] for line in lines[1:]] == ["photos/3.png", "photos/1.png", "photos/2.png"]


def test_rows_without_an_embedding_are_counted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(Path("some.parquet"), ROWS, failed=[0, 2])
    assert run("some.parquet", "--query", "query.png", "--count", "9") == 0
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["photos/1.png", "photos/3.png"]
    assert "2 rows compared" in err
    assert "2 more have no embedding" in err
    assert run("some.parquet", "--query-id", "photos/2.png") == 1
    told = "query-id: got 'photos/2.png', a row without an embedding (got '!', expected anything else), expected"
    assert told in capsys.readouterr().err


def test_another_space_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("out.parquet", "--query", "query.png", space="es-b") == 1
    assert capsys.readouterr().err == (
        "error: embedding_space: got 'es-b' of fake version 1, expected 'es-fake', that of out.parquet: distances mean"
        " nothing between two spaces\n"
    )


def test_folders_that_cannot_be(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def told(job: str) -> str:
        assert run(job, "--query", "query.png", space=None) == 1
        return capsys.readouterr().err

    begins = "error: job: got "
    for job in ("nowhere", ".", "query.png", ""):
        assert told(job).startswith(begins)
        assert "expected the folder of a job, with _job.json in it" in told(job)
    assert told("no\0thing").startswith(begins)
    job = json.loads(Path("out.parquet/_job.json").read_text())
    Path("empty.parquet").mkdir()
    Path("empty.parquet/_job.json").write_text(json.dumps(job))
    assert told("empty.parquet") == f"{begins}empty.parquet without a row, expected a job that has written some\n"
    Path("empty.parquet/_job.json").write_text(json.dumps(job | {"columns": ["p_value", "flagged"]}))
    assert told("empty.parquet") == (
        f"{begins}empty.parquet, a job of p_value, flagged, expected one with embeddings"
        " (embed, or score with --embeddings)\n"
    )
    Path("empty.parquet/_job.json").write_text("{")
    assert "empty.parquet/_job.json (" in told("empty.parquet")


def test_a_broken_part_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("out.parquet", "other.parquet")
    part = Path("other.parquet/part-00001.parquet")
    data = part.read_bytes()
    write_job(Path("narrow.parquet"), ROWS[:, :2])
    for other in (b"x", data[: len(data) // 2], Path("narrow.parquet/part-00000.parquet").read_bytes()):
        part.write_bytes(other)
        assert run("other.parquet", "--query", "query.png") == 1
        assert capsys.readouterr().err.startswith(f"error: job: got {part}, expected a part of a job that can be read")


def test_queries_that_cannot_be(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*given: str, space: str | None = None) -> str:
        assert run("out.parquet", *given, space=space) == 1
        return capsys.readouterr().err

    assert told() == "error: query: got none, expected --query FILE or --query-id ID\n"
    assert told("--query", "no.png") == (
        "error: query: got 'no.png', expected a file that can be read (No such file or directory)\n"
    )
    assert "query: got '.', expected a file that can be read (Is a directory)" in told("--query", ".")
    assert told("--query", "query.png", "broken.png", space="es-fake") == (
        "error: query: broken.png: got '!', expected anything else\n"
    )
    assert told("--query-id", "x") == (
        "error: query-id: got 'x', expected the id or the source of a row of out.parquet\n"
    )
    assert told("--query", "query.png", "--count", "0") == "error: count: got 0, expected 1 or more\n"
    assert told("--query", "query.png", "--html", "nowhere/x.html") == (
        "error: html: got nowhere/x.html, expected a file in a folder that exists\n"
    )
    assert told("--query", "query.png", "--out", "x.npy").startswith("error: out: got x.npy, expected a file that ends")
    assert told("--query", "query.png", "--column", "a") == (
        "error: column: got it alone, expected --html FILE beside it\n"
    )
    assert told("--query", "query.png", "--target", "a:1").startswith("error: target: got it beside --bundle")


def test_a_query_of_zeros_has_no_direction(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(Path("zeros.parquet"), np.eye(3, 4, -1, np.float32))
    assert run("zeros.parquet", "--query-id", "photos/0.png") == 1
    assert "metric: got cosine for photos/0.png, whose embedding is all zeros" in capsys.readouterr().err
    assert run("zeros.parquet", "--query-id", "photos/0.png", "--metric", "euclidean") == 0


def test_without_its_library(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run("out.parquet", "--query", "query.png") == 1
    assert capsys.readouterr().err == (
        "error: job: Parquet needs pyarrow, which is missing: pip install 'latentserve[bulk]'\n"
    )


def test_the_page_holds_what_it_shows(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    picture: Any = Image.new("RGB", (40, 30), (200, 10, 10))
    picture.save("<b>.png")
    write_job(Path("pictures.parquet"), ROWS, ["<b>.png", "gone.png", "query.png", "two.png"], part_rows=4)
    assert run("pictures.parquet", "--query", "second.png", "--html", "page.html", "--count", "4") == 0
    page = Path("page.html").read_text()
    assert "&lt;b&gt;.png</figcaption>" in page
    assert "<b>.png" not in page
    assert page.count("<figure") == 5
    assert page.count("changed since it was embedded") == 2, "its id is another"
    assert page.count("No such file or directory") == 2
    assert "expected an image that Pillow reads" in page, "the query itself is none"
    assert not any(word in page for word in ("http:", "https:", 'src="/', "<script"))
    assert run("pictures.parquet", "--query", "second.png", "--html", "page.html") == 1
    assert "html: got page.html, which exists" in capsys.readouterr().err
    assert run("pictures.parquet", "--query", "second.png", "--html", "page.html", "--force") == 0
