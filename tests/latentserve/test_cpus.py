from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentserve.cpus import available_cpus


@pytest.fixture(autouse=True)
def _three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


def mounted(proc: Path, cgroup: str, kind: str, options: str, root: str = "/") -> Path:
    """What the kernel tells of a process in a cgroup; returns where its file system lies."""
    top = proc.parent / "sys fs" / kind
    top.mkdir(parents=True)
    (proc / "cgroup").write_text(f"9:memory:/elsewhere\n{cgroup}\n")
    escaped = str(top).replace(" ", "\\040")
    others = "29 1 0:5 / /dev rw - devtmpfs none rw\n30 1 0:9 / /sys/memory rw - cgroup cgroup rw,memory\n"
    (proc / "mountinfo").write_text(f"{others}31 1 0:6 {root} {escaped} rw shared:1 - {kind} cgroup {options}\n")
    return top


def v1(folder: Path, quota: int, period: int = 100_000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def v2(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 3), ("0 0", 3)]
)
def test_a_quota_of_version_2_is_kept(proc: Path, text: str, cpus: int) -> None:
    top = mounted(proc, "0::/", "cgroup2", "rw")
    v2(top, text)
    assert available_cpus(proc) == cpus


@pytest.mark.parametrize(("quota", "period", "cpus"), [(-1, 100_000, 3), (100_000, 100_000, 1), (75_000, 50_000, 2)])
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_is_kept(proc: Path, quota: int, period: int, cpus: int, controllers: str) -> None:
    top = mounted(proc, f"4:{controllers}:/jobs/one", "cgroup", f"rw,{controllers}")
    v1(top / "jobs" / "one", quota, period)
    assert available_cpus(proc) == cpus


def test_the_smallest_of_all_groups_above_holds(proc: Path) -> None:
    top = mounted(proc, "0::/pod/container", "cgroup2", "rw")
    v2(top / "pod" / "container", "200000 100000")
    v2(top / "pod", "100000 100000")
    assert available_cpus(proc) == 1
    v2(top / "pod", "max 100000")
    assert available_cpus(proc) == 2


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/../..", "/elsewhere"])
def test_a_container_that_is_told_its_path_on_the_host(proc: Path, path: str) -> None:
    """What it sees as the topmost folder is its own group."""
    top = mounted(proc, f"4:cpu:{path}", "cgroup", "rw,cpu", root="/docker/abc")
    v1(top, 100_000)
    assert available_cpus(proc) == 1


def test_groups_of_other_processes_and_of_other_things_do_not_count(proc: Path) -> None:
    top = mounted(proc, "4:cpu:/mine", "cgroup", "rw,cpu")
    v1(top / "mine", -1)
    v1(top / "theirs", 100_000)
    v1(top / "mine" / "below", 100_000)
    assert available_cpus(proc) == 3
    assert available_cpus(proc / "no Linux") == 3


@pytest.mark.parametrize("package", ["training", "export"])
@pytest.mark.parametrize(("outside", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_before_torch_is_there(package: str, outside: str | None, policy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if outside is not None:
        environment["OMP_WAIT_POLICY"] = outside
    tell = f"import sys, os, {package}; print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'))"
    told = subprocess.run([sys.executable, "-c", tell], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", policy]
