"""A job by a bundle and by a server: one schema and one set of numbers; and a kill that leaves no trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.cli.main import main
from latentserve.client import Client

pa = pytest.importorskip("pyarrow", reason="the extra `bulk`")
import pyarrow.parquet as pq  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path: Path, digits: NDArray[np.uint8], encode: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 150 digits, noise, a photograph of another size, and two files that are none."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, digit in enumerate(digits[:150]):
        (folder / f"{number:03}.png").write_bytes(encode(digit))
    rng = np.random.default_rng(0)
    (folder / "noise.png").write_bytes(encode(rng.integers(0, 256, (8, 8, 1), np.uint8)))
    (folder / "large.jpg").write_bytes(encode(rng.integers(0, 256, (40, 30, 3), np.uint8), "JPEG"))
    (folder / "020-broken.png").write_bytes(b"hello")
    (folder / "empty.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return folder


def columns(folder: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(folder).to_pydict()
    return found


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_bundle_and_a_server_answer_alike(
    files: Path, bundle_folder: Path, digits_server: ServedProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    job = "score", "files", "--embeddings", "--part-rows", "100", "--alpha", "0.1"
    assert main([*job, "--to", "local.parquet", "--bundle", str(bundle_folder)]) == 0
    assert main([*job, "--to", "served.parquet", "--server", digits_server.target]) == 0
    assert capsys.readouterr().err.count(" 2 failed") == 2
    assert Path("local.parquet/_job.json").read_text() == Path("served.parquet/_job.json").read_text()
    local, served = columns("local.parquet"), columns("served.parquet")
    for name in ("id", "source", "model", "version", "embedding_space", "calibration", "error", "flagged", "p_value"):
        assert local[name] == served[name], name
    assert local["error"][local["source"].index("files/020-broken.png")].startswith(
        "got 5 bytes beginning b'hello', expected a JPEG or PNG file"
    )
    assert local["error"].count(None) == 152
    assert local["flagged"][local["source"].index("files/noise.png")] is True
    good = [name for name, error in zip(local["source"], local["error"], strict=True) if error is None]
    with Client(digits_server.target) as client:
        embeddings, scores = client.embed(good), client.score(good, alpha=0.1)
    for found in (local, served):
        assert [one for one in found["p_value"] if one is not None] == scores.p_values.tolist()
        rows = np.array([row for row in found["embedding"] if row is not None], np.float32)
        np.testing.assert_allclose(rows, embeddings, atol=1e-6)


def test_each_command_asks_a_server_for_its_own(files: Path, digits_server: ServedProcess) -> None:
    target = "--target", digits_server.target
    assert main(["embed", "files", "--to", "e.parquet", *target]) == 0
    assert main(["score", "files", "--to", "s.parquet", *target]) == 0
    embedded, scored = columns("e.parquet"), columns("s.parquet")
    assert embedded["error"] == scored["error"]
    assert [embedded["embedding"].count(None), embedded["p_value"].count(None)] == [2, 154]
    assert [scored["embedding"].count(None), scored["p_value"].count(None)] == [154, 2]


def test_a_job_may_go_on_by_the_other(files: Path, bundle_folder: Path, digits_server: ServedProcess) -> None:
    job = "embed", "--to", "out.parquet", "--part-rows", "60"
    few = [str(path.relative_to(Path.cwd())) for path in sorted(files.iterdir())[:60]]
    assert main([*job, *few, "--bundle", str(bundle_folder)]) == 0
    assert main([*job, "files", "--server", digits_server.target]) == 0
    assert columns("out.parquet")["source"] == [f"files/{path.name}" for path in sorted(files.iterdir())]


def test_a_query_finds_itself_by_a_bundle_and_by_a_server(
    files: Path, bundle_folder: Path, digits_server: ServedProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", "files", "--to", "out.parquet", "--bundle", str(bundle_folder)]) == 0
    for number, by in enumerate((("--bundle", str(bundle_folder)), ("--server", digits_server.target))):
        given = "neighbours", "out.parquet", "--query", "files/017.png", "--count", "5", "--html", f"{number}.html"
        capsys.readouterr()
        assert main([*given, *by]) == 0
        out, err = capsys.readouterr()
        assert "152 rows compared" in err
        assert "2 more have no embedding" in err
        nearest = out.splitlines()[1].split()
        assert nearest[2] == "files/017.png"
        assert float(nearest[1]) < 1e-6
        assert Path(f"{number}.html").read_text().count("<img") == 6


@pytest.mark.parametrize("how", ["bundle", "server"])
def test_levels_that_cannot_be_are_told_before_work(
    how: str, files: Path, bundle_folder: Path, digits_server: ServedProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    by = {"bundle": str(bundle_folder), "server": digits_server.target}[how]
    assert main(["score", "files", "--to", "out.parquet", f"--{how}", by, "--alpha", "1e-9"]) == 1
    assert "alpha: got 1e-09, expected" in capsys.readouterr().err
    assert not Path("out.parquet").exists()


def test_killed_at_any_moment_it_goes_on_to_equal_bytes(files: Path, bundle_folder: Path) -> None:
    given = ["embed", "files", "--part-rows", "4", "--bundle", str(bundle_folder.resolve())]
    assert main([*given, "--to", "whole.parquet"]) == 0
    command = [sys.executable, "-m", "latentserve", *given, "--to", "out.parquet"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env) as job:
        until = time.monotonic() + 60
        while not Path("out.parquet/part-00002.parquet").exists() and time.monotonic() < until:
            time.sleep(0.001)
        job.send_signal(signal.SIGKILL)
    parts = sorted(path.name for path in Path("out.parquet").glob("part-*"))
    assert 3 <= len(parts) < 39
    assert main([*given, "--to", "out.parquet"]) == 0
    assert contents("out.parquet") == contents("whole.parquet")
