"""The training loop: Lightning, with batches taken from memory, checkpoints without pickles, and resume.

Every epoch draws its order and its noise from (seed, epoch) alone. So a run that was interrupted and
resumed ends with the same weights as one that was not, and Ctrl-C loses at most one epoch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.data import Data, DataError
from training.data.lazy import Lazy, as_values
from training.lightning import Callback, LightningModule, ModelCheckpoint, TQDMProgressBar, Trainer
from training.methods.encoding import Taught
from training.running.checkpoint import SUFFIX, SafetensorsIO
from training.running.lazy_batches import Parts, ahead
from training.running.precision import Exact, bfloat16_here, exact_precision, warning
from training.schedule import LoopConfig, Precision

TEST_BATCH_ROWS = 1000
CPU = torch.device("cpu")
SECONDS_BETWEEN_LINES = 5.0
STEPS_BETWEEN_CHECKS = 50
"""On a GPU, where to read a number is to wait for it: the next steps could have been sent meanwhile."""


class TrainingDiverged(RuntimeError):
    """The loss or a weight is not a number any more. The checkpoint of the last whole epoch is kept."""


@dataclass(frozen=True)
class Trained:
    """The results of a finished training.

    Attributes:
        epochs: trained.
        seconds: wall-clock of the training, a teacher's share included, pauses between resumes left out.
        device: what it ran on: a GPU, or threads, model and instruction set of a CPU, each of which rounds differently;
            and `bfloat16` if its products were.
        history: per epoch, the means of what the method logged.
        test: what the method logged on the test split, after the last epoch.
    """

    epochs: int
    seconds: float
    device: str
    history: tuple[dict[str, float], ...]
    test: dict[str, float]


class Batches:
    """Minibatches of rows that lie in memory as uint8, or are decoded, in an order drawn by (seed, epoch).

    The last batch is dropped when it is not full: BatchNorm must not meet a batch of one. Where each row has a target
    a batch is both.
    """

    def __init__(
        self,
        rows: Tensor | Lazy,
        batch_rows: int,
        seed: int,
        epoch: int,
        targets: Tensor | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.rows = rows
        self.targets = targets
        self.device = device
        self.batch_rows = min(batch_rows, len(rows))
        self.generator_seed = seed * 1_000_003 + epoch

    def __len__(self) -> int:
        return len(self.rows) // self.batch_rows

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.generator_seed)
        order = torch.randperm(len(self.rows), generator=generator)
        if isinstance(self.rows, Lazy):
            parts = torch.split(order, self.batch_rows)[: len(self)]
            batches = ahead(as_values(self.rows), [part.numpy() for part in parts], self.device)
            for batch, chosen in zip(batches, parts, strict=True):
                yield batch if self.targets is None else (batch, self.targets[chosen.to(self.device)])
            return
        order = order.to(self.rows.device)
        for start in range(0, len(self) * self.batch_rows, self.batch_rows):
            chosen = order[start : start + self.batch_rows]
            yield self.rows[chosen] if self.targets is None else (self.rows[chosen], self.targets[chosen])


def train(module: LightningModule, data: Data, loop: LoopConfig, checkpoint: Path, identity: dict[str, Any]) -> Trained:
    """Trains from `checkpoint` if it exists, else from scratch, saving there after every epoch.

    Raises:
        CheckpointError: the checkpoint there is of another run than `identity` says, or none can be saved.
        DataError: there is too little sound for one row.
        TrainingDiverged: the loss became NaN or infinite.
        KeyboardInterrupt: Ctrl-C; what is saved can be resumed.
    """
    if not len(data.training_rows):
        raise DataError(f"{data.spec}: got less than one training row of sound, expected several")
    precision = _chosen_precision(loop.precision)
    if loop.compiled:
        _compile(module)
    module.to(memory_format=torch.channels_last)  # convolutions of images are faster so, on CPUs as on GPUs
    diary = Diary(loop.seed)
    trainer = _trainer(loop, precision, SafetensorsIO(identity), [diary, _save_every_epoch(checkpoint)])
    device, values = trainer.strategy.root_device, data.training_rows
    rows = values if isinstance(values, Lazy) else torch.from_numpy(values).to(device)
    begun = time.monotonic()
    targets = module.targets(values, checkpoint.parent).to(device) if isinstance(module, Taught) else None
    diary.seconds = time.monotonic() - begun  # a checkpoint knows better: it has the seconds of the first time

    def batches() -> Batches:
        return Batches(rows, loop.batch_rows, loop.seed, trainer.current_epoch, targets, device)

    module.train_dataloader = batches  # type: ignore[method-assign]
    try:
        trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None)
    except SystemExit as interrupted:  # Lightning turns Ctrl-C into an exit
        raise KeyboardInterrupt from interrupted
    torch.manual_seed(loop.seed)
    test: Mapping[str, float] = {}
    if len(data.test_rows):
        test_batches: Any = Parts(data.test_rows, TEST_BATCH_ROWS)
        (test,) = trainer.test(module, DataLoader(test_batches, batch_size=None), verbose=False)
    return Trained(
        epochs=loop.epochs,
        seconds=round(diary.seconds, 1),
        device=_device_name(trainer.strategy.root_device, precision),
        history=tuple(diary.history),
        test={name: float(value) for name, value in test.items()},
    )


def _compile(module: LightningModule) -> None:
    """Compiles the encoder in place: the names of its weights stay.

    Raises:
        ValueError: the method has no encoder of its own.
    """
    encoder = getattr(module, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"compiled: got True, expected False: {type(module).__name__} has no one encoder to compile")
    encoder.compile()


def _trainer(loop: LoopConfig, precision: Exact, checkpoints: SafetensorsIO, callbacks: list[Callback]) -> Trainer:
    """On the GPU if there is one. One device: methods that gather over several are run by a trainer of one's own."""
    progress = [TQDMProgressBar(refresh_rate=10)] if sys.stderr.isatty() else []
    return Trainer(
        max_epochs=loop.epochs,
        accelerator="auto",
        devices=1,
        precision=precision,
        logger=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        plugins=[checkpoints],
        callbacks=[*callbacks, *progress],
        enable_progress_bar=bool(progress),
        num_sanity_val_steps=0,
    )


class Diary(Callback):
    """Seeds each epoch, keeps its figures and its time in the checkpoint, and stops on a loss that is no number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._finite: Tensor | None = None
        self._started = 0.0
        self._said = 0.0

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
            raise _diverged(trainer, f"the loss is {float(loss)}" if not finite else "the loss was not finite")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs before the checkpoint of this epoch is saved: weights that are no numbers must not be."""
        if self._finite is not None and not self._finite:
            raise _diverged(trainer, "the loss was not finite")
        for name, tensor in pl_module.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise _diverged(trainer, f"{name} is not finite")
        self.seconds += time.monotonic() - self._started
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": float(trainer.current_epoch), **figures})
        if not sys.stderr.isatty():
            self._say(trainer, figures)

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
        return {"history": self.history, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of a run that is resumed."""
        self.history = list(state_dict["history"])
        self.seconds = float(state_dict["seconds"])


def is_checked(device_type: str, batch_idx: int) -> bool:
    """Whether the loss is checked after this step; at an epoch's end it always is."""
    return device_type != "cuda" or batch_idx % STEPS_BETWEEN_CHECKS == 0


def _diverged(trainer: Trainer, what: str) -> TrainingDiverged:
    epoch, step = trainer.current_epoch, trainer.fit_loop.total_batch_idx + 1  # global_step counts every optimizer's
    kept = "the checkpoint of the last whole epoch is kept" if epoch else "no epoch was whole, nothing is kept"
    rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return TrainingDiverged(
        f"{what} at step {step} (epoch {epoch}, learning rate {rate:.3g}); {kept}: try a lower learning rate"
    )


def _save_every_epoch(checkpoint: Path) -> ModelCheckpoint:
    saver = ModelCheckpoint(
        dirpath=checkpoint.parent,
        filename=checkpoint.stem,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    saver.FILE_EXTENSION = SUFFIX
    return saver


def _chosen_precision(asked: Precision) -> Exact:
    bfloat16 = bfloat16_here()
    if (advice := warning(asked, bfloat16)) is not None:
        print(advice, file=sys.stderr)
    return exact_precision(asked, bfloat16)


def _device_name(device: torch.device, precision: Exact) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads, model = torch.get_num_threads(), torch.cpu.get_capabilities().get("cpu_name", "a CPU")
        name = f"{threads} thread{'s' * (threads > 1)} of {model} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{name}, bfloat16" if precision == "bf16-mixed" else name
