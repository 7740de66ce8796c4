"""The import of many photographs, in parts: files, a process that is killed, what its lines say."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.results import large_data
from benchmarks.results.large_data import Attempt, LargeData, Options, attempt, measure, photographs, table

PROCESS = """
import sys, time
held = b"x" * (80 * 2**20)
say = lambda line: print(line, end="", file=sys.stderr, flush=True)
say("decoding: 100%|###| 120/120 [00:03<00:00, 40.00 images/s]\\n")
if len(sys.argv) > 1:
    say("training rows: 48 of 96 rows were embedded before; going on\\n")
for done in (0, 24, 48):
    say(f"\\rtraining rows: {100 * done // 96:3d}%|## | {done}/96 [01:0{done // 24}<00:09, 1.00 images/s]")
if len(sys.argv) > 1:
    say("\\rtraining rows: 100%|###| 96/96 [00:04<00:00, 24.00 images/s]\\n")
else:
    time.sleep(60)
"""


def test_photographs_are_made_once(tmp_path: Path) -> None:
    photographs(tmp_path, 3)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert [file.name for file in files] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert len({file.read_bytes() for file in files}) == 3
    with Image.open(files[0]) as image:
        assert image.size == (640, 480)
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    photographs(tmp_path, 3)
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, before, strict=True)] == [True, False, True]
    assert not [*tmp_path.rglob("*.new")]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak")
def test_a_process_is_killed_in_the_middle_and_its_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_data, "LOOK_SECONDS", 0.05)
    command = [sys.executable, "-c", PROCESS]
    killed = attempt(command, dict(os.environ), 50)
    assert killed.status == -signal.SIGKILL
    assert killed.seconds < 50
    assert 80 < killed.peak_mib < 160
    assert killed.images_per_second == {"decoding": 40.0, "training rows": round(48 / 62, 1)}
    assert killed.found == 0
    resumed = attempt([*command, "again"], dict(os.environ), None)
    assert (resumed.status, resumed.found) == (0, 48)
    assert resumed.images_per_second["training rows"] == 24.0


def test_the_same_command_is_given_twice_and_killed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[list[str], Any]] = []

    def noted(command: list[str], environment: dict[str, str], kill_at: int | None) -> Attempt:
        assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")
        given.append((command, kill_at))
        return Attempt(100.0 + len(given), 900, {"decoding": 300.0, "training rows": 80.0}, 40 * len(given), 0)

    monkeypatch.setattr(large_data, "attempt", noted)
    monkeypatch.setattr(large_data, "photographs", lambda folder, num: folder.mkdir())
    monkeypatch.setattr(large_data.torch, "save", lambda weights, file: file.touch())
    found = measure(Options(images=100, work=tmp_path, kill_at=30))
    assert given[0][0] == given[1][0]
    assert [kill_at for _, kill_at in given] == [30, None]
    assert f"folder:{tmp_path / 'photos'}" in given[0][0]
    assert found == LargeData(100, 100 * 224 * 224 * 3 / 2**20, found.killed, found.resumed)
    assert "| the same command again | 102 | 900 | 300 | 80 | 80 |" in table(found)


@pytest.mark.parametrize("wrong", [{"images": 99}, {"kill_at": 101}, {"kill_at": -1}])
def test_what_cannot_be_measured_is_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
        Options(**wrong)  # type: ignore[arg-type]
