"""From start to ready, for few and for many bundles, beside what ONNX Runtime alone takes to open their sessions.

    python -m benchmarks.serving.startup build/demo-digits/models/digits-vae/1 [--nums 1 10 50] [--repeats 3]

Every bundle is a copy of the one given, under another name. `sessions` is one process that opens all graphs one after
another, as the service does, and does nothing else; its start and its imports do not count. Two threads at it are no
faster: ONNX Runtime holds the interpreter's lock while it opens a session. Medians.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.processes.served import ServedProcess
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.cpus import available_cpus
from service.engine.providers import DeviceConfig, open_sessions
from service.models.repository import find_bundles


@dataclass(frozen=True)
class Options:
    """Times the start of a server.

    Attributes:
        bundle: folder of a bundle.
        nums: how many bundles it serves.
        repeats: starts for each figure.
        sessions: open the sessions of this repository, print the seconds, and do nothing else.
        threads: that open them.
    """

    bundle: Annotated[Path | None, tyro.conf.Positional] = None
    nums: tuple[int, ...] = (1, 10, 50)
    repeats: int = 3
    sessions: Path | None = None
    threads: int = 1


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    if options.sessions is not None:
        print(opened_in(options.sessions, options.threads))
        return 0
    if options.bundle is None:
        print("error: bundle: got none, expected the folder of one", file=sys.stderr)
        return 2
    print("| bundles | start to ready, s | imports alone, s | sessions alone, s | by two threads, s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for num in options.nums:
        with tempfile.TemporaryDirectory() as scratch:
            models = Path(scratch) / "models"
            for place in range(num):
                copy(options.bundle, models, f"copy-{place}")
            rounds = [once(models, Path(scratch) / "server.log") for _ in range(options.repeats)]
        ready, imports, alone, by_two = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        cells = f"{ready:.2f} | {imports:.2f} | {alone:.2f} | {by_two:.2f}"
        print(f"| {num} | {cells} | {(ready - imports) / alone:.2f} |", flush=True)
    return 0


def once(models: Path, log: Path) -> tuple[float, float, float, float]:
    """Seconds of a start, of its imports, and of its sessions by one thread and by two."""
    return ready_in(models, log), imports_in(), sessions_in(models, 1), sessions_in(models, 2)


def copy(folder: Path, models: Path, name: str) -> None:
    """The same files under another name."""
    to = models / name / "1"
    shutil.copytree(folder, to, copy_function=os.link)
    manifest = replace(records.read(Manifest, folder / bundle.MANIFEST), name=name, version=1)
    (to / bundle.MANIFEST).unlink()
    records.write(manifest, to / bundle.MANIFEST)


def ready_in(models: Path, log: Path) -> float:
    """Seconds from the start of the process to its line that says so."""
    started = time.monotonic()
    with ServedProcess(models, log, ("--device", "cpu")):
        return time.monotonic() - started


def sessions_in(models: Path, threads: int) -> float:
    """Seconds that another process takes for `opened_in`."""
    command = [sys.executable, "-m", "benchmarks.serving.startup", "--sessions", str(models), "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def imports_in() -> float:
    """Seconds of a process that does nothing but import the service."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import service.__main__, service.server"], check=True)
    return time.monotonic() - started


def opened_in(models: Path, threads: int) -> float:
    """Seconds to open the sessions of every bundle, by the service's options."""
    config = DeviceConfig("cpu", available_cpus(), 64)
    manifests = [(folder, records.read(Manifest, folder / bundle.MANIFEST)) for folder in find_bundles(models)]
    with ThreadPoolExecutor(threads) as pool:
        started = time.monotonic()
        kept = list(pool.map(lambda one: open_sessions(one[0], one[1].graphs.values(), config), manifests))
        return time.monotonic() - started if kept else 0.0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving.startup")))
