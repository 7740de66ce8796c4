"""What a training writes down of every epoch, and when it has to stop.

Ranks mean their figures: each logs what it found in its own rows. Only rank 0 says anything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.lightning import Callback, LightningModule, Trainer
from training.ranks import mean_of_all, rank

SECONDS_BETWEEN_LINES = 5.0
STEPS_BETWEEN_CHECKS = 50
"""On a GPU, where to read a number is to wait for it: the next steps could have been sent meanwhile."""


class TrainingDiverged(RuntimeError):
    """The loss or a weight is not a number any more. The checkpoint that was saved last is kept."""


class Diary(Callback):
    """Seeds each epoch, keeps its figures and its time in the checkpoint, and stops on a loss that is no number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._finite: Tensor | None = None
        self._started: float | None = None
        self._said = 0.0
        self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time runs from here where an epoch goes on, which does not begin again."""
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The noise of an epoch depends on (seed, epoch), not on what ran before."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
        self._started = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        """A loss that is no number ends the run."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        assert isinstance(loss, Tensor)  # every method returns its loss
        finite = torch.isfinite(loss.detach())
        self._finite = finite if self._finite is None else self._finite & finite
        if is_checked(loss.device.type, batch_idx) and not self._finite:
            what = f"the loss is {float(loss)}" if not finite else "the loss was not finite"
            raise _diverged(trainer, what, self._saved)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs before the checkpoint of this epoch is saved."""
        self._check_finite(trainer, pl_module)
        self.seconds, self._started = self._seconds_so_far(), None
        figures = {name: float(mean_of_all(value)) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": float(trainer.current_epoch), **figures})
        if rank() == 0 and not sys.stderr.isatty():
            self._say(trainer, figures)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Within an epoch, too, weights that are no numbers must not be saved."""
        if self._started is not None:
            self._check_finite(trainer, pl_module)
        self._saved = True

    def _check_finite(self, trainer: Trainer, module: LightningModule) -> None:
        if self._finite is not None and not self._finite:
            raise _diverged(trainer, "the loss was not finite", self._saved)
        for name, tensor in module.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise _diverged(trainer, f"{name} is not finite", self._saved)

    def _seconds_so_far(self) -> float:
        return self.seconds + (time.monotonic() - self._started if self._started is not None else 0.0)

    def _say(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """Prints a line now and then, and for the last epoch, where there is no terminal for a progress bar."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if not last and time.monotonic() - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = time.monotonic()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}  {self.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state that a checkpoint keeps."""
        return {"history": self.history, "seconds": self._seconds_so_far()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of a run that is resumed."""
        self.history = list(state_dict["history"])
        self.seconds = float(state_dict["seconds"])
        self._saved = True


def is_checked(device_type: str, batch_idx: int) -> bool:
    """Whether the loss is checked after this step; at an epoch's end it always is."""
    return device_type != "cuda" or batch_idx % STEPS_BETWEEN_CHECKS == 0


def _diverged(trainer: Trainer, what: str, saved: bool) -> TrainingDiverged:
    epoch, step = trainer.current_epoch, trainer.fit_loop.total_batch_idx + 1  # global_step counts every optimizer's
    kept = "the checkpoint that was saved last is kept" if saved else "none was saved before"
    rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return TrainingDiverged(
        f"{what} at step {step} (epoch {epoch}, learning rate {rate:.3g}); {kept}: try a lower learning rate"
    )
