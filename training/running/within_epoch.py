"""Checkpoints within an epoch, for epochs that take long: whatever happens, a few minutes are lost.

The order of an epoch is drawn from (seed, epoch), so how many batches are done says which remain (`Batches`). Its noise
is one stream of random numbers, seeded at its beginning: where the stream stands is kept. So are the sums that the
figures of the epoch are means of, and what a model chose when it began (`training.running.regrouping`). A run that goes
on within an epoch ends as one that was never interrupted, bit for bit. A method's `on_train_epoch_start` is not called
again: what it sets must lie in the checkpoint.

What is kept is rank 0's: all ranks draw alike, and the sums are means over the ranks before they are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.lightning import Callback, LightningModule, Trainer
from training.ranks import mean_of_all
from training.running.processes import agreed

KEPT = "within_epoch"
"""Name of it in a checkpoint; a checkpoint of a whole epoch has none."""


class WithinEpoch(Callback):
    """Saves now and then within an epoch, and goes on from there.

    Args:
        checkpoint: the file, which the end of an epoch replaces.
        seconds: between two saves.
    """

    def __init__(self, checkpoint: Path, seconds: float) -> None:
        self._checkpoint = checkpoint
        self._seconds = seconds
        self._saved = 0.0
        self._saving = False
        self._done = 0
        self._chosen: list[Tensor] = []
        self._random: dict[str, Tensor] = {}
        self._sums: dict[str, list[Tensor]] = {}

    def done(self) -> int:
        """How many batches of the epoch that begins or goes on are done; of the one after it none are.

        Not by Lightning's stateful loaders: it makes the loader of the first epoch before it reads the checkpoint.
        """
        done, self._done = self._done, 0
        return done

    def chosen(self, choose: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Order and targets of the epoch; where it goes on those that it began with, by weights that are gone."""
        self._chosen = self._chosen or list(choose())
        order_N, targets_N = self._chosen
        return order_N, targets_N

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time runs from here, also where an epoch goes on."""
        self._saved = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch before has just been saved."""
        self._saved = time.monotonic()
        self._chosen = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The first step of an epoch that goes on draws what it would have drawn."""
        if self._random:
            _set_random(self._random, pl_module.device)
            self._random = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds what was summed before an interruption, and saves when it is time: not after the last step."""
        for name in self._sums.keys() & _results(trainer).keys():
            value, num_rows = self._sums.pop(name)
            metric = _results(trainer)[name]
            metric.value = metric.value + value.to(metric.value)
            metric.cumulated_batch_size = metric.cumulated_batch_size + num_rows.to(metric.cumulated_batch_size)
        last = batch_idx + 1 == trainer.num_training_batches
        if not last and agreed(time.monotonic() - self._saved >= self._seconds):
            self._saving = True
            trainer.save_checkpoint(self._checkpoint)
            self._saving = False
            self._saved = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what a whole epoch does not need."""
        if self._saving:
            sums = {
                name: [mean_of_all(metric.value), metric.cumulated_batch_size]
                for name, metric in _results(trainer).items()
            }
            done = trainer.fit_loop.batch_idx + 1
            stream = {"done": done, "random": _random(pl_module.device), "chosen": self._chosen}
            checkpoint[KEPT] = {**stream, "sums": sums | self._sums}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes it up again; it is put to use by the first step."""
        if KEPT in checkpoint:
            kept = checkpoint[KEPT]
            self._done, self._chosen = kept["done"], list(kept["chosen"])
            self._random, self._sums = dict(kept["random"]), dict(kept["sums"])


def _results(trainer: Trainer) -> dict[str, Any]:
    """What Lightning has summed of the figures of this epoch, which no checkpoint of its own keeps."""
    results: dict[str, Any] = trainer.fit_loop._results
    return results


def _random(device: torch.device) -> dict[str, Tensor]:
    """Where the streams of random numbers stand: the host's, and the device's if it has one."""
    host = {"cpu": torch.get_rng_state()}
    return {**host, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else host


def _set_random(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
