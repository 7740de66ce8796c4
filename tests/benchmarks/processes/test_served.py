"""The server as a child: whatever goes wrong at its start, it does not stay behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.processes.served import ServedProcess


def python_that(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ServedProcess:
    """A server whose program is this script; it leaves its number in `pid`."""
    (folder / "python").write_text(f"#!/bin/sh\necho $$ >{folder}/pid\n{script}\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return ServedProcess(folder, folder / "log", own_session=True)


def is_gone(folder: Path) -> bool:
    return not Path(f"/proc/{(folder / 'pid').read_text().strip()}").exists()


def test_ctrl_c_while_it_starts_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = python_that("echo loading; exec sleep 60", tmp_path, monkeypatch)

    def interrupted() -> None:
        server._process.stdout.readline()  # type: ignore[union-attr]
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_await_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.__enter__()
    assert is_gone(tmp_path)


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.processes.served.STOP_SECONDS", 0.2)
    server = python_that("trap '' TERM; echo ready grpc=a metrics=b; while :; do sleep 1; done", tmp_path, monkeypatch)
    with pytest.raises(Exception, match="timed out"), server:
        pass
    assert is_gone(tmp_path)


def test_why_it_did_not_start_is_in_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo a banner; echo started >&2; echo error: device: got no working CUDA >&2; exit 1"
    with pytest.raises(RuntimeError, match="^the server did not start: error: device: got no working CUDA\nstarted"):
        python_that(script, tmp_path, monkeypatch).__enter__()


def test_other_lines_before_it_is_ready_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = python_that(
        "echo Failed to load libx; echo ready grpc=a:1 metrics=b:2; exec sleep 60", tmp_path, monkeypatch
    )
    with server:
        assert server.target == "a:1"
