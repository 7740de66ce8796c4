"""How long a newcomer waits: from a fresh clone to the first p-value, and from a folder of photographs to flagged ones.

    python -m benchmarks.newcomer --photos FOLDER --others FOLDER     five commands, each timed
    python -m benchmarks.newcomer --clone FOLDER                      `make setup` and `make demo` in a new clone
    python -m benchmarks.newcomer --only encoder --photos FOLDER --others FOLDER
                                  a wheel in a fresh environment, a folder of transformers' imported, served, asked

The folder of transformers' is a small DINOv2 with random weights: it tells how long the way is, not how well it sees.
Of the environment only the wheel is installed: what it depends on is borrowed from the one that runs this.

Prints Markdown. `make setup` takes what the network gives: packages that uv has in its cache are not downloaded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "latentserve")
IN_A_WHEEL = ("latentserve", "service", "training", "export", "setup.py", "pyproject.toml", "README.md", "LICENSE")
MADE = """
import torch
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model
torch.manual_seed(0)
Dinov2Model(Dinov2Config(hidden_size=192, num_hidden_layers=6, num_attention_heads=3)).save_pretrained("dinov2")
processor = BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3)
processor.save_pretrained("dinov2")
"""
"""A folder as people have it; DINOv2's own configuration but for its size."""


@dataclass(frozen=True)
class Options:
    """Times what a newcomer does.

    Attributes:
        photos: folder of images to train on.
        others: folder of images to score.
        clone: where to clone this checkout to.
        only: `train` an encoder on the photographs, or import an `encoder` that is there.
    """

    photos: Path | None = None
    others: Path | None = None
    clone: Path | None = None
    only: Literal["train", "encoder"] = "train"


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    steps: list[tuple[str, float]] = []
    if options.clone is not None:
        subprocess.run(["git", "clone", "-q", ROOT, options.clone], check=True)
        steps += [timed(("make", verb), options.clone) for verb in ("setup", "demo")]
    if options.photos is not None and options.others is not None:
        way = photographs if options.only == "train" else encoder
        steps += way(options.photos.resolve(), options.others.resolve())
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
        return steps + served(COMMAND, others, folder)


def encoder(photos: Path, others: Path) -> list[tuple[str, float]]:
    """Install, import, serve, and score in an empty folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        installing = installed(folder / "wheel", folder / "venv")
        command = (str(folder / "venv/bin/latentserve"),)
        subprocess.run([sys.executable, "-c", MADE], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        importing = (*command, "import", "hf:dinov2", "--data", f"folder:{photos}", "--to", "models")
        return [installing, timed(importing, folder), *served(command, others, folder)]


def installed(built: Path, place: Path) -> tuple[str, float]:
    """A wheel of this checkout in an environment of its own, and how long pip took to install it."""
    copy = built / "source"
    copy.mkdir(parents=True)
    for name in IN_A_WHEEL:
        subprocess.run(["cp", "-r", ROOT / name, copy], check=True)
    pip = (sys.executable, "-m", "pip")
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", built, copy], check=True)
    venv.create(place)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (wheel,) = built.glob("*.whl")
    began = time.monotonic()
    subprocess.run([*pip, "--python", place / "bin/python", "install", "-q", "--no-deps", wheel], check=True)
    return "pip install (the wheel alone)", time.monotonic() - began


def served(command: tuple[str, ...], others: Path, folder: Path) -> list[tuple[str, float]]:
    """Serves the folder's models, and scores photographs."""
    began = time.monotonic()
    serve = (*command, "serve", "--models", "models", "--port", "0", "--metrics-port", "0")
    told, env = subprocess.PIPE, environment(serve)
    with subprocess.Popen(serve, cwd=folder, env=env, stdout=told, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"grpc=(\S+)", server.stdout.readline())
            until_ready = time.monotonic() - began
            assert found is not None
            scoring = timed((*command, "score", str(others), "--target", found[1]), folder, "latentserve score")
        finally:
            server.terminate()
    return [("latentserve serve, until it is ready", until_ready), scoring]


def timed(command: tuple[str, ...], folder: Path, name: str = "") -> tuple[str, float]:
    """Runs a command, what it says on standard error shown; returns its name and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, env=environment(command), check=False)
    if done.returncode not in (0, 1):  # 1: one of the files is no image
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
    said = " ".join(command[len(COMMAND) - 1 :]) if command[0] == sys.executable else " ".join(command)
    said = said.removeprefix(f"{folder}/venv/bin/")
    return name or re.sub(r"folder:\S+", "folder:PHOTOS", said), time.monotonic() - began


def environment(command: tuple[str, ...]) -> dict[str, str]:
    """Of commands in another folder: this checkout is found there, but not by what a wheel installed."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return alone if command[0].endswith("/latentserve") else {**alone, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.newcomer")))
