"""How many CPUs this process may use: its CPU set, limited by its container's quota.

Libraries read the CPU set at most. With four threads on a quota of one CPU the kernel stops all of them for three
quarters of the time, in the middle of whatever they do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def sleep_while_waiting() -> None:
    """Threads of OpenMP, which torch and scikit-learn compute with, sleep while they wait for each other.

    To be called before a library loads OpenMP. By default they spin for a while, and where something else is at work on
    the cores they take its time and their own (`python -m benchmarks.contention`). A policy from outside stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def available_cpus(proc: Path = PROC) -> int:
    """At least one; a quota of one and a half CPUs counts as two.

    Args:
        proc: the kernel's folder of this process.
    """
    allowed = cpu_set()
    return max(1, min([allowed, *(math.ceil(cpus) for cpus in _quotas(proc))]))


def cpu_set() -> int:
    """CPUs that the scheduler may put this process on, whatever its quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(proc: Path) -> Iterator[float]:
    """CPUs that each cgroup over this process allows, where one has a quota; the smallest holds."""
    for folder, top in _cgroups(proc):
        within = [folder, *folder.parents]
        for group in within[: within.index(top) + 1]:
            with suppress(OSError, ValueError, ZeroDivisionError):  # not the file of this version, or no quota
                quota, period = (group / "cpu.max").read_text().split()
                yield int(quota) / int(period)  # `max`: none
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                if int(quota) > 0:  # -1: none
                    yield int(quota) / int(period)


def _cgroups(proc: Path) -> Iterator[tuple[Path, Path]]:
    """Of this process: the folder that rules its CPU time, and the topmost one that can be seen; version 1 and 2.

    Source: cgroups(7); proc(5), /proc/pid/mountinfo.
    """
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:  # no Linux
        return
    tops = {}
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        root, top = (field.replace("\\040", " ") for field in place.split()[3:5])
        name, _, options = kind.split()[:3]
        if name == "cgroup2" or (name == "cgroup" and "cpu" in options.split(",")):
            tops[name] = root, Path(top)
    for line in lines:
        number, controllers, path = line.split(":", 2)
        name = "cgroup2" if number == "0" else "cgroup" if "cpu" in controllers.split(",") else ""
        if name in tops:
            root, topmost = tops[name]
            # A container sees its own group as the topmost one, and may be told its path on the host.
            rest = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
            folder = topmost / rest
            yield (folder if folder.is_dir() and ".." not in rest.parts else topmost), topmost
