"""Stage `train`: SimCLR with ResNet-18 on CIFAR-10 as its recipe says, and the probes through the exported graph.

First what a step costs: batches alone, batches and views, the whole step as it is and compiled. Then the training, for
as many of the recipe's epochs as fit into the time box (a rate schedule that ends, not one that is cut off); what was
interrupted goes on. Then embeddings of the exported graph on the device, and the probes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cells import Cells, Figures, one_line
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine
from benchmarks.results.recipes import RECIPES, read_recipe
from export.graphs import EncoderGraph, GraphRunner, export_graph
from latentserve.inputs import INPUT
from training.__main__ import parse
from training.data import Data, load_data
from training.evaluation.probes import knn_accuracy, linear_probe_accuracy
from training.methods import METHODS
from training.preprocessing import image_from_uint8
from training.running.batches import Batches
from training.running.precision import bfloat16_here
from training.running.run import RESULT, load_model, open_run

RECIPE = "simclr_cifar10_resnet"
REHEARSED = ("--epochs", "2", "--batch-rows", "128", "--warmup-steps", "2", "--width", "8")
STEPS, WARM_STEPS = 40, 10
PAYS = 1.05
RUNS = "runs"
FOR_PROBES_SECONDS = 90.0
START_SECONDS = 25.0
"""Until the first step: libraries, the data, and on a GPU the compiler."""
LEAST_LINEAR, LEAST_KNN, MOST_MINUTES = 0.865, 0.845, 8.0


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        data: spec.
        arguments: of the training, without epochs, run and compilation.
        epochs: of the recipe.
    """

    data: str
    arguments: tuple[str, ...]
    epochs: int


def run(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """Steps, training, probes."""
    job = job_of(machine)
    data = load_data(job.data)
    if cells.again:
        shutil.rmtree(folder / RUNS, ignore_errors=True)
    steps = cells.measure("steps", lambda: step_rates(machine, job, data))
    if steps is None:
        return []
    trained = cells.measure("training", lambda: training(machine, job, folder, steps, cells.seconds_left))
    if trained is None:
        return []
    probes = Probes(machine, Path(trained["run"]), data, folder)
    knn, linear = cells.measure("kNN", probes.knn), cells.measure("linear probe", probes.linear)
    if machine.rehearsal:
        return []
    whole = trained["epochs"] == job.epochs
    return [
        Check.at_least("SimCLR linear probe", linear["linear"] if linear else None, LEAST_LINEAR),
        Check.at_least("SimCLR kNN-20", knn["knn_20"] if knn else None, LEAST_KNN),
        Check.at_most(f"minutes of {job.epochs} epochs", trained["minutes"] if whole else None, MOST_MINUTES),
    ]


def job_of(machine: Machine) -> Job:
    """The recipe, or in the rehearsal two epochs on digits."""
    recipe = read_recipe(RECIPES / f"{RECIPE}.toml")
    arguments = machine.choose(tuple(recipe.arguments), REHEARSED)
    at = arguments.index("--epochs")
    return Job(machine.choose(recipe.data, "digits"), arguments[:at] + arguments[at + 2 :], int(arguments[at + 1]))


def step_rates(machine: Machine, job: Job, data: Data) -> Figures:
    """Steps a second, each kind by itself, all of the rows on the device."""
    device = torch.device(machine.device)
    options, config = parse("simclr", list(job.arguments))
    loop = options.loop
    rows = torch.from_numpy(data.train.values).to(device)
    found: Figures = {"steps_an_epoch": len(rows) // loop.batch_rows}

    def module(compiled: bool) -> Any:
        torch.manual_seed(0)
        made: Any = METHODS["simclr"].module(config, loop, data.shape).to(device, memory_format=torch.channels_last)
        if compiled:
            made.encoder.compile(backend=machine.choose("inductor", "eager"))
        return made

    plain = module(compiled=False)
    found["batches"] = _rate(machine, rows, loop.batch_rows, lambda _: None)
    found["batches_and_views"] = _rate(
        machine, rows, loop.batch_rows, lambda batch: [plain.views(image_from_uint8(batch)) for _ in range(2)]
    )
    found["eager"] = _rate(machine, rows, loop.batch_rows, _step(plain, machine))
    try:
        found["compiled"] = _rate(machine, rows, loop.batch_rows, _step(module(compiled=True), machine))
    except Exception as error:  # a compiler that lacks, or cannot
        found |= {"compiled": 0.0, "compiled_error": one_line(error)}
    return found


def _step(module: Any, machine: Machine) -> Callable[[Any], Any]:
    """One step of SGD in bfloat16 where that is multiplied."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    module.log = lambda *_, **__: None  # there is no trainer to hear it

    def step(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(machine.device, torch.bfloat16, enabled=bfloat16_here()):
            loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()

    return step


def _rate(machine: Machine, rows: Any, batch_rows: int, step: Callable[[Any], Any]) -> float:
    def steps(num: int) -> float:
        done, started = 0, time.perf_counter()
        while done < num:
            for batch in Batches(rows, batch_rows, 0, done):
                step(batch)
                done += 1
                if done == num:
                    break
        if machine.device == "cuda":
            torch.cuda.synchronize()
        return num / (time.perf_counter() - started)

    steps(machine.choose(WARM_STEPS, 1))
    return steps(machine.choose(STEPS, 4))


def training(machine: Machine, job: Job, folder: Path, steps: Figures, seconds: float) -> Figures:
    """Trains by our own command line, so that what is measured is what users run."""
    compiled = not machine.rehearsal and steps["compiled"] > PAYS * steps["eager"]
    best = max(steps["compiled"], steps["eager"])
    run, epochs = _to_train(job, folder, fitting(job.epochs, steps["steps_an_epoch"] / best, seconds))
    command = [sys.executable, "-m", "training", "simclr", "--data", job.data, "--epochs", str(epochs)]
    command += ["--run", str(run), *job.arguments, *(["--compiled"] if compiled else [])]
    command += ["--resume"] if run.exists() else []
    started = time.monotonic()
    if not (run / RESULT).exists():
        process = subprocess.Popen(command)
        try:
            status = process.wait()
        except BaseException:  # Ctrl-C, or the time box: what is trained stays, and goes on another time
            process.terminate()
            process.wait()
            raise
        if status:
            raise RuntimeError(f"{' '.join(command[1:])} ended with {status}")
    _, trained = open_run(run)
    return {
        "run": str(run),
        "epochs": epochs,
        "epochs_of_recipe": job.epochs,
        "compiled": compiled,
        "minutes": trained.seconds / 60,
        "minutes_with_start": (time.monotonic() - started) / 60,
        "steps_a_second": epochs * steps["steps_an_epoch"] / trained.seconds,
        "device": trained.device,
    }


def fitting(epochs: int, seconds_an_epoch: float, seconds: float) -> int:
    """How many epochs fit, with a tenth to spare and time for the probes; one at least."""
    room = 0.9 * (seconds - FOR_PROBES_SECONDS - START_SECONDS)
    return max(1, min(epochs, int(room / seconds_an_epoch)))


def _to_train(job: Job, folder: Path, epochs: int) -> tuple[Path, int]:
    """The run that was begun, if there is one, else a new one; and its epochs."""
    runs = folder / RUNS
    for begun in sorted(runs.glob("simclr-*/run.json")):
        said = json.loads(begun.read_text())
        if said["data"] == job.data:
            return begun.parent, int(said["loop"]["epochs"])
    return runs / f"simclr-{epochs}", epochs


class Probes:
    """Probes of what the exported graph outputs, run on the device. Nearest neighbours first: they take seconds."""

    def __init__(self, machine: Machine, run_folder: Path, data: Data, folder: Path) -> None:
        self._machine, self._run_folder, self._data, self._folder = machine, run_folder, data, folder

    @cached_property
    def _arrays(self) -> tuple[Any, Any, Any, Any]:
        """Embeddings and labels of the training and of the test rows."""
        run, _ = open_run(self._run_folder)
        data, folder = self._data, self._folder
        example = {INPUT: torch.from_numpy(data.test.values[:2])}
        model = EncoderGraph(load_model(self._run_folder, run))
        graph = export_graph(model, example, ["embedding"], folder / "probed.onnx")
        runner = GraphRunner(folder, [graph], self._machine.device)
        train, test = (runner.run(rows.values)["embedding"] for rows in (data.train, data.test))
        return train, data.train.labels_N, test, data.test.labels_N

    def knn(self) -> Figures:
        """Accuracy, 0 to 1."""
        return {"knn_20": knn_accuracy(*self._arrays), "rows": len(self._arrays[0])}

    def linear(self) -> Figures:
        """Accuracy, 0 to 1."""
        return {"linear": linear_probe_accuracy(*self._arrays), "rows": len(self._arrays[0])}
