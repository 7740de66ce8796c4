"""What of a machine changes a training: threads, or the instruction set of one library or another.

    python -m benchmarks.results.rounding [RECIPE] [--epochs 2]     two minutes on two cores

Trains a recipe for some epochs as the machine is, with one thread, and again with one thing changed. Prints how far the
weights are apart in the end, and the seconds. Instruction sets are lowered by the variables that PyTorch, oneDNN and
MKL read; what the CPU has not cannot be tried here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from safetensors.numpy import load_file

from benchmarks.results.recipes import RECIPES, Recipe, read_recipe
from training.running.run import CHECKPOINT

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
CONDITIONS: dict[str, dict[str, str]] = {
    "again": ONE_THREAD,
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "PyTorch with AVX2": ONE_THREAD | {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN with AVX2": ONE_THREAD | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL with AVX2": ONE_THREAD | {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


@dataclass(frozen=True)
class Options:
    """Compares training runs.

    Attributes:
        recipe: file name under training/recipes, without .toml.
        epochs: number of epochs to train.
    """

    recipe: Annotated[str, tyro.conf.Positional] = "cpc_audio_fsdd"
    epochs: int = 2


def main(options: Options) -> None:
    """Prints a table."""
    recipe = read_recipe(RECIPES / f"{options.recipe}.toml")
    print("| changed | largest weight is off by | seconds |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        first, seconds = trained(recipe, options.epochs, ONE_THREAD, Path(scratch) / "first")
        print(f"| nothing: 1 thread, the CPU's own instructions | | {seconds:.1f} |", flush=True)
        for name, environment in CONDITIONS.items():
            weights, seconds = trained(recipe, options.epochs, environment, Path(scratch) / name)
            print(f"| {name} | {apart(first, weights):.2g} | {seconds:.1f} |", flush=True)


def trained(recipe: Recipe, epochs: int, environment: dict[str, str], run: Path) -> tuple[dict[str, np.ndarray], float]:
    """The weights of a run of seed 0, and how long it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "training", recipe.method, "--data", recipe.data, *recipe.arguments]
    command += ["--epochs", str(epochs), "--run", str(run)]
    subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    weights = {name: array for name, array in load_file(run / CHECKPOINT).items() if array.dtype.kind == "f"}
    return weights, time.monotonic() - started


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of two runs' tensors."""
    return max(float(np.nanmax(np.abs(one[name] - other[name]), initial=0.0)) for name in one)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.results.rounding"))
