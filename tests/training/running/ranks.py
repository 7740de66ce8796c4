"""What each process of the two-process tests does: a file of its own, so that it imports no more than this."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training import preprocessing
from training.__main__ import quiet_lightning
from training.data.rows import Data, Rows
from training.lightning import LightningModule
from training.methods import METHODS, Method, cpc_audio
from training.running import checkpoint, processes
from training.running import loop as running
from training.running.diary import Diary
from training.running.given import survey
from training.running.loop import train
from training.running.processes import RanksError
from training.running.run import CHECKPOINT
from training.running.within_epoch import KEPT
from training.schedule import LoopConfig

RATE_HZ = 800
NUM_ROWS, BATCH_ROWS, NUM_STEPS = 43, 8, 5
"""The last three rows fill no batch."""
TEACHER = "teacher"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "acn": (
        "acn",
        {"latent_dim": 4, "hidden_dim": 16, "width": 4, "neighbours": 2, "prior_dim": 8, "decoder_width": 8}
        | {"num_layers": 2, "binarise": "dynamic"},
    ),
    "simclr": ("simclr", {"width": 4, "hidden_dim": 16, "projection_dim": 8}),
    "cpc": ("cpc", {"width": 4, "feature_dim": 8, "context_dim": 4, "patch_size": 4, "patch_stride": 2}),
    "cpc_audio": ("cpc_audio", {"num_filters": 8, "width": 8, "speed": 0.3}),
    "cpc_audio of a batch": ("cpc_audio", {"num_filters": 8, "width": 8, "negatives": "batch", "context": "gru"}),
    "bigbigan": (
        "bigbigan",
        {"latent_dim": 4, "backbone_width": 4, "hidden_dim": 16, "width": 4, "discriminator_dim": 16}
        | {"latent_regression": 0.5, "image_regression": 0.5},
    ),
    "bigan": (
        "bigan",
        {"latent_dim": 4, "backbone_width": 4, "hidden_dim": 16, "width": 4, "discriminator_dim": 16},
    ),
    "vae": ("vae", {"latent_dim": 4, "embedding_dim": 16, "width": 4, "corruption": 0.2}),
    "vae of pixels 0 and 1": ("vae", {"latent_dim": 4, "embedding_dim": 16, "width": 4, "binarise": "dynamic"}),
    "tcvae": ("vae", {"latent_dim": 4, "embedding_dim": 16, "width": 4, "objective": "tcvae", "beta": 4.0}),
    "rotation": ("rotation", {"width": 4, "hidden_dim": 16}),
    "deepcluster": ("deepcluster", {"width": 4, "num_clusters": 5, "pca_dim": 4}),
    "relative_position": (
        "relative_position",
        {"width": 4, "feature_dim": 8, "hidden_dim": 8, "patch_size": 4, "gap": 0, "shift": 0},
    ),
    "colorization": ("colorization", {"width": 4, "bin_size": 20.0}),
    "vqvae": ("vqvae", {"codebook_size": 24, "code_dim": 4, "width": 4, "dead_share": 0.3}),
    "vqvae and its prior": (
        "vqvae",
        {"codebook_size": 24, "code_dim": 4, "width": 4, "prior_share": 0.4, "prior_width": 8, "prior_layers": 2},
    ),
    "sparse_autoencoder": ("sparse_autoencoder", {"num_units": 32, "k": 6, "contractive": 0.01}),
    "dbn": ("dbn", {"layers": (16, 8), "pretraining": 0.8}),
    "dbn of persistent chains": ("dbn", {"layers": (16, 8), "pretraining": 0.8, "sampling": "pcd"}),
    "pixelcnn": ("pixelcnn", {"width": 8, "num_layers": 2}),
    "pixelcnn by blocks": (
        "pixelcnn",
        {"width": 8, "num_layers": 2, "binarise": "dynamic", "block": 2, "background": 0.2},
    ),
    "pixelvae": (
        "pixelvae",
        {"latent_dim": 4, "hidden_dim": 16, "width": 4, "decoder_width": 8, "num_layers": 2, "binarise": "dynamic"},
    ),
    "distill": ("distill", {"width": 4, "target_dim": 8, "num_anchors": 16, "teacher": TEACHER}),
}


def data(method: Method) -> Data:
    """Noise: tests and calibration have rows of their own, of which only the test's are looked at."""
    draw = np.random.default_rng(0)
    if method.modality == "audio":  # each row as long as a training row
        rows = [draw.integers(-9999, 9999, (num, int(2.56 * RATE_HZ)), np.int16) for num in (NUM_ROWS, 1, 4)]
        return Data("noise", *(Rows(values) for values in rows), sample_rate_hz=RATE_HZ)
    images = [draw.integers(0, 256, (num, 12, 12, 3 if method.colour else 1), np.uint8) for num in (NUM_ROWS, 1, 4)]
    return Data("noise", *(Rows(values) for values in images))


def _in_double(x_BHWC: Tensor) -> Tensor:
    return preprocessing.image_from_uint8(x_BHWC).double()


def in_double_precision() -> None:
    """Adam makes a whole step of a gradient that is 0 but for rounding: then it is below its epsilon."""
    for method in METHODS.values():
        module = sys.modules[method.module.__module__]
        if hasattr(module, "image_from_uint8"):
            module.image_from_uint8 = _in_double  # type: ignore[attr-defined]
    cpc_audio.waveform_from_int16 = lambda x_BT: preprocessing.waveform_from_int16(x_BT).double()
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    running._chosen_precision = lambda _: "64-true"  # type: ignore[assignment, return-value]


def build(case: str, folder: Path, loop: LoopConfig) -> LightningModule:
    """The module of a case, with the weights that its seed draws."""
    name, given = CASES[case]
    if "teacher" in given:
        given = given | {"teacher": str(folder / given["teacher"] / "random" / "1")}
    method = METHODS[name]
    torch.manual_seed(loop.seed)
    return method.module(method.config(**given), loop, data(method).shape)


def trained(
    case: str, folder: Path, run: Path, epochs: int = 1, num_rows: int = NUM_ROWS, save_minutes: float = 10.0
) -> dict[str, Any]:
    """Trains a case; each step's loss of the rank's own rows, its gradients, and the figures."""
    gradients: list[Tensor] = []
    losses: list[Tensor] = []

    class Recorder(Diary):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            gradients.append(torch.cat([one.grad.flatten() for one in parameters]).clone())

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            losses.append((outputs["loss"] if isinstance(outputs, dict) else outputs).detach().clone())

    running.Diary = Recorder  # type: ignore[misc]
    loop = LoopConfig(epochs=epochs, batch_rows=BATCH_ROWS, warmup_steps=2, save_minutes=save_minutes)
    rows = data(METHODS[CASES[case][0]])
    rows = replace(rows, train=rows.train.take(slice(0, num_rows)))
    run.mkdir(parents=True, exist_ok=True)
    module = build(case, folder, loop)
    survey(module, rows.train.values)
    result = train(module, rows, loop, run / CHECKPOINT, {"epochs": epochs})
    return {"losses": losses, "gradients": gradients, "history": result.history, "test": result.test}


def run_rank(rank: int, folder: str, port: int) -> None:
    """Trains every case as one of two ranks, writes what it saw, and ends the process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    prepare()
    here, saved = Path(folder), count_saves()
    with processes.joined():
        found: dict[str, Any] = {"whole": trained("vae", here, here / "two" / "whole", epochs=3)}
        stop_in_second_epoch(here, here / "two" / "stopped")
        while not (here / "one" / "whole" / "done").exists():
            time.sleep(0.05)
        for stopped in ("two", "one"):
            found[f"stopped by {stopped}"] = trained("vae", here, here / stopped / "stopped", epochs=3)
        found["few rows"] = trained("vae", here, here / "two" / "few rows", num_rows=7)
        found["unlike"] = unlike(rank)
        in_double_precision()
        found |= {case: trained(case, here, here / "two" / case) for case in CASES}
    found["saved"] = len(saved)
    torch.save(found, here / f"rank{rank}.pt")
    os._exit(0)  # a process group has threads that an interpreter that ends would wait for


def run_alone(folder: str) -> None:
    """Trains every case as the only process."""
    prepare()
    here = Path(folder)
    stop_in_second_epoch(here, here / "one" / "stopped")
    found = {"whole": trained("vae", here, here / "one" / "whole", epochs=3)}
    (here / "one" / "whole" / "done").touch()
    in_double_precision()
    found |= {case: trained(case, here, here / "one" / case) for case in CASES}
    torch.save(found, here / "one.pt")


def prepare() -> None:
    """What no test of ours is about."""
    quiet_lightning()
    torch.set_num_threads(1)


def count_saves() -> list[Path]:
    """A list that grows with every checkpoint that this process saves."""
    saved: list[Path] = []
    original = checkpoint.save

    def save(tree: dict[str, Any], path: Path, run: dict[str, Any]) -> None:
        saved.append(path)
        original(tree, path, run)

    checkpoint.save = save
    return saved


def stop_in_second_epoch(here: Path, run: Path) -> None:
    """A run of three epochs that ends within the second one, and was saved there."""
    original = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 2:
            raise KeyboardInterrupt

    Diary.on_train_batch_end = stop  # type: ignore[method-assign]
    try:
        trained("vae", here, run, epochs=3, save_minutes=1e-9)
    except KeyboardInterrupt:
        Diary.on_train_batch_end = original  # type: ignore[method-assign]
    saved = checkpoint.load(run / CHECKPOINT)
    assert saved["epoch"] == 1
    assert KEPT in saved


def unlike(rank: int) -> str:
    """What is said of a rank that trains something else."""
    try:
        processes.check_same({"config": {"width": 4 + rank}})
    except RanksError as error:
        return str(error)
    return ""
