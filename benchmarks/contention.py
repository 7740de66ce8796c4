"""What a training takes where something else is at work on the cores: threads that spin, threads that sleep.

    python -m benchmarks.contention [--epochs 10] [--repeats 3]     three minutes on two cores

Trains a small VAE on digits, alone and beside a busy loop for each core; once as OpenMP would have its threads wait, in
a loop of 300,000 turns, and once as `latentserve.cpus.sleep_while_waiting` has them wait. Prints the median of some
repetitions, in turns. Seconds are of the whole command, of which start-up is a part.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from latentserve.cpus import available_cpus

POLICIES = {
    "spin (OpenMP's default)": {"GOMP_SPINCOUNT": "300000"},
    "sleep": {},
}
"""The environment of a training; libgomp takes a count over a policy."""
BUSY = "while True: pass"


@dataclass(frozen=True)
class Options:
    """Compares how threads wait.

    Attributes:
        epochs: number of epochs of a training.
        repeats: trainings for each figure.
    """

    epochs: int = 10
    repeats: int = 3


def main(options: Options) -> None:
    """Prints a table."""
    seconds: dict[tuple[bool, str], list[float]] = {}
    for _ in range(options.repeats):
        for is_busy in (False, True):
            for policy in POLICIES:
                with busy(available_cpus() if is_busy else 0):
                    seconds.setdefault((is_busy, policy), []).append(training_seconds(options.epochs, policy))
    print(f"| threads that wait | alone, s | beside {available_cpus()} busy loops, s | times as long |")
    print("| --- | --- | --- | --- |")
    for policy in POLICIES:
        alone, beside = (statistics.median(seconds[is_busy, policy]) for is_busy in (False, True))
        print(f"| {policy} | {alone:.1f} | {beside:.1f} | {beside / alone:.1f} |")


def training_seconds(epochs: int, policy: str) -> float:
    """How long a training takes."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "training", "vae", "--data", "digits", "--batch-rows", "64"]
        command += ["--epochs", str(epochs), "--run", str(Path(scratch) / "run")]
        started = time.monotonic()
        subprocess.run(command, env=os.environ | POLICIES[policy], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started


@contextmanager
def busy(num: int) -> Iterator[None]:
    """So many processes that do nothing, without a pause."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.contention"))
