"""What each process of the two-process tests does: a file of its own, so that it imports no more than this."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.__main__ import quiet_lightning
from training.data.rows import Data, Rows
from training.lightning import LightningModule
from training.methods import METHODS
from training.running import checkpoint, processes
from training.running.diary import Diary
from training.running.loop import train
from training.running.processes import RanksError
from training.schedule import LoopConfig

RATE_HZ = 800
NUM_ROWS, BATCH_ROWS, NUM_STEPS = 43, 8, 5
"""The last three rows fill no batch."""
TEACHER = "teacher"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {"width": 4, "hidden_dim": 16, "projection_dim": 8}),
    "cpc": ("cpc", {"width": 4, "feature_dim": 8, "context_dim": 4, "patch_size": 4, "patch_stride": 2}),
    "cpc_audio": ("cpc_audio", {"num_filters": 8, "width": 8, "speed": 0.3}),
    "cpc_audio of a batch": ("cpc_audio", {"num_filters": 8, "width": 8, "negatives": "batch", "context": "gru"}),
    "bigbigan": (
        "bigbigan",
        {"latent_dim": 4, "backbone_width": 4, "hidden_dim": 16, "width": 4, "discriminator_dim": 16}
        | {"latent_regression": 0.5, "image_regression": 0.5},
    ),
    "vae": ("vae", {"latent_dim": 4, "embedding_dim": 16, "width": 4, "corruption": 0.2}),
    "vae of pixels 0 and 1": ("vae", {"latent_dim": 4, "embedding_dim": 16, "width": 4, "binarise": "dynamic"}),
    "tcvae": ("vae", {"latent_dim": 4, "embedding_dim": 16, "width": 4, "objective": "tcvae", "beta": 4.0}),
    "distill": ("distill", {"width": 4, "target_dim": 8, "num_anchors": 16, "teacher": TEACHER}),
}


@dataclass(frozen=True)
class Step:
    """What a step of an optimizer was given, and the loss of the rank's own rows."""

    loss: Tensor
    gradient: Tensor


def data(modality: str) -> Data:
    """Noise: tests and calibration have rows of their own, of which only the test's are looked at."""
    draw = np.random.default_rng(0)
    if modality == "audio":  # each row as long as a training row
        rows = [draw.integers(-9999, 9999, (num, int(2.56 * RATE_HZ)), np.int16) for num in (NUM_ROWS, 1, 4)]
        return Data("noise", *(Rows(values) for values in rows), sample_rate_hz=RATE_HZ)
    images = [draw.integers(0, 256, (num, 12, 12, 1), np.uint8) for num in (NUM_ROWS, 1, 4)]
    return Data("noise", *(Rows(values) for values in images))


def build(case: str, folder: Path, loop: LoopConfig) -> LightningModule:
    """The module of a case, with the weights that its seed draws."""
    name, given = CASES[case]
    if "teacher" in given:
        given = given | {"teacher": str(folder / given["teacher"] / "random" / "1")}
    method = METHODS[name]
    torch.manual_seed(loop.seed)
    return method.module(method.config(**given), loop, data(method.modality).shape)


def trained(case: str, folder: Path, run: Path, epochs: int = 1, num_rows: int = NUM_ROWS) -> dict[str, Any]:
    """Trains a case; each step's loss and gradients, the figures, the weights, and what was measured at the end."""
    steps: list[Tensor] = []
    losses: list[Tensor] = []

    class Recorder(Diary):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            steps.append(torch.cat([one.grad.flatten() for one in parameters]).clone())

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            losses.append((outputs["loss"] if isinstance(outputs, dict) else outputs).detach().clone())

    from training.running import loop as module

    module.Diary = Recorder  # type: ignore[misc]
    loop = LoopConfig(epochs=epochs, batch_rows=BATCH_ROWS, warmup_steps=2)
    rows = data(METHODS[CASES[case][0]].modality)
    rows = replace(rows, train=rows.train.take(slice(0, num_rows)))
    run.mkdir(parents=True, exist_ok=True)
    result = train(build(case, folder, loop), rows, loop, run / "last.safetensors", {"case": case})
    return {"losses": losses, "steps": steps, "history": result.history, "test": result.test}


def run_rank(rank: int, folder: str, port: int) -> None:
    """Trains every case as one of two ranks, writes what it saw, and ends the process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quiet_lightning()
    torch.set_num_threads(1)
    here = Path(folder)
    with processes.joined():
        found: dict[str, Any] = {case: trained(case, here, here / "two" / case) for case in CASES}
        found["few rows"] = trained("vae", here, here / "two" / "few rows", num_rows=7)
        found["whole"] = trained("vae", here, here / "two" / "whole", epochs=3)
        found["resumed"] = resumed(here, here / "two" / "resumed")
        found["unlike"] = unlike(rank)
    torch.save(found, here / f"rank{rank}.pt")
    os._exit(0)  # a process group has threads that an interpreter that ends would wait for


def resumed(here: Path, run: Path) -> dict[str, Any]:
    """The same as three epochs at once, but stopped in the second one."""
    original = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 1:
            raise KeyboardInterrupt

    Diary.on_train_batch_end = stop  # type: ignore[method-assign]
    try:
        trained("vae", here, run, epochs=3)
    except KeyboardInterrupt:
        Diary.on_train_batch_end = original  # type: ignore[method-assign]
    assert checkpoint.load(run / "last.safetensors")["epoch"] == 0
    return trained("vae", here, run, epochs=3)


def unlike(rank: int) -> str:
    """What is said of a rank that trains something else."""
    try:
        processes.check_same({"config": {"width": 4 + rank}})
    except RanksError as error:
        return str(error)
    return ""
