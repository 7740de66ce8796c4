"""How long a newcomer waits: from a fresh clone to the first p-value, and from a folder of photographs to flagged ones.

    python -m benchmarks.newcomer --photos FOLDER --others FOLDER     five commands, each timed
    python -m benchmarks.newcomer --clone FOLDER                      `make setup` and `make demo` in a new clone

Prints Markdown. `make setup` takes what the network gives: packages that uv has in its cache are not downloaded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "latentserve")


@dataclass(frozen=True)
class Options:
    """Times what a newcomer does.

    Attributes:
        photos: folder of images to train on.
        others: folder of images to score.
        clone: where to clone this checkout to.
    """

    photos: Path | None = None
    others: Path | None = None
    clone: Path | None = None


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    steps: list[tuple[str, float]] = []
    if options.clone is not None:
        subprocess.run(["git", "clone", "-q", ROOT, options.clone], check=True)
        steps += [timed(("make", verb), options.clone) for verb in ("setup", "demo")]
    if options.photos is not None and options.others is not None:
        steps += photographs(options.photos.resolve(), options.others.resolve())
    print("| command | seconds |\n| --- | --- |")
    for command, seconds in [*steps, ("together", sum(seconds for _, seconds in steps))]:
        print(f"| {command} | {seconds:.0f} |")
    return 0


def photographs(photos: Path, others: Path) -> list[tuple[str, float]]:
    """Train, export, serve, and score in an empty folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = ("--data", f"folder:{photos}", "--image-size", "64", "--run", "runs/photos")
        steps = [
            timed((*COMMAND, "train", "simclr", *data), folder),
            timed((*COMMAND, "export", "runs/photos", "--to", "models", "--name", "photos"), folder),
        ]
        began = time.monotonic()
        serve = (*COMMAND, "serve", "--models", "models", "--port", "0", "--metrics-port", "0")
        with subprocess.Popen(
            serve, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            assert server.stdout is not None
            found = re.search(r"grpc=(\S+)", server.stdout.readline())
            steps.append(("latentserve serve, until it is ready", time.monotonic() - began))
            assert found is not None
            steps.append(timed((*COMMAND, "score", str(others), "--target", found[1]), folder, "latentserve score"))
            server.terminate()
    return steps


def timed(command: tuple[str, ...], folder: Path, name: str = "") -> tuple[str, float]:
    """Runs a command, what it says on standard error shown; returns its name and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, env=environment(), check=False)
    if done.returncode not in (0, 1):  # 1: one of the files is no image
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
    said = " ".join(command[len(COMMAND) - 1 :]) if command[0] == sys.executable else " ".join(command)
    return name or re.sub(r"folder:\S+", "folder:PHOTOS", said), time.monotonic() - began


def environment() -> dict[str, str]:
    """Of commands that run this checkout from another folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.newcomer")))
