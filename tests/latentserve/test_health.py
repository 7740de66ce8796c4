"""The health check of a container, asked of a real server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.processes.served import ServedProcess
from latentserve import health
from tests.waiting import eventually


def test_both_ways_to_ask_agree_from_start_to_stop(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServedProcess(repository, tmp_path / "log", ("--lame-duck-seconds", "60")) as process:
        ways = (process.target, process.metrics_url, process.metrics_url.replace("/metrics", "/ready"))
        assert [health.main(way) for way in ways] == [0, 0, 0]
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: health.main(process.target) == 1)
        capsys.readouterr()
        assert [health.main(way) for way in ways] == [1, 1, 1]
        assert capsys.readouterr().out == "NOT_SERVING\n" * 3
    assert [health.main(way) for way in ways] == [1, 1, 1]
    assert f"{process.target}: UNAVAILABLE" in capsys.readouterr().err
