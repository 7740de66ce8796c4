"""The training loop: Lightning, with batches taken from memory, checkpoints without pickles, and resume.

Every epoch draws its order and its noise from (seed, epoch) alone. So a run that was interrupted and
resumed ends with the same weights as one that was not, and Ctrl-C loses at most one epoch, or a few minutes of one
that takes longer (`training.running.within_epoch`).

On several processes it is Lightning's DDP: each has its part of every batch, which stays as large as it was, as does
the learning rate. Rank 0 alone writes, and tests alone, as one process would.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from training.data import Data, DataError
from training.data.lazy import Lazy
from training.lightning import (
    Callback,
    DDPStrategy,
    LightningEnvironment,
    LightningModule,
    ModelCheckpoint,
    TorchElasticEnvironment,
    TQDMProgressBar,
    Trainer,
)
from training.methods.encoding import Keeping, Regrouped, Taught
from training.networks.batch_norms import NormsOverRanks
from training.options import OptionError
from training.ranks import alone, num_ranks, rank
from training.running import processes
from training.running.batches import Batches, Parts
from training.running.checkpoint import SUFFIX, SafetensorsIO
from training.running.diary import Diary
from training.running.interrupting import Interrupting
from training.running.precision import Exact, bfloat16_here, exact_precision, warning
from training.running.regrouping import regrouped
from training.running.within_epoch import WithinEpoch
from training.schedule import LoopConfig, Precision

TEST_BATCH_ROWS = 1000


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


def train(module: LightningModule, data: Data, loop: LoopConfig, checkpoint: Path, identity: dict[str, Any]) -> Trained:
    """Trains from `checkpoint` if it exists, else from scratch, saving there after every epoch and now and then within.

    Raises:
        CheckpointError: the checkpoint there is of another run than `identity` says, or none can be saved.
        DataError: there is too little sound for one row.
        TrainingDiverged: the loss became NaN or infinite.
        KeyboardInterrupt: Ctrl-C; what is saved can be resumed.
    """
    if not len(data.training_rows):
        raise DataError(f"{data.spec}: got less than one training row of sound, expected several")
    check_shared(loop, len(data.training_rows), num_ranks())
    precision = _chosen_precision(loop.precision)
    processes.check_same({**identity, "precision": precision})
    if loop.compiled:
        _compile(module)
    module.to(memory_format=torch.channels_last)  # convolutions of images are faster so, on CPUs as on GPUs
    diary = Diary(loop.seed)
    within = WithinEpoch(checkpoint, 60 * loop.save_minutes)
    interrupting = Interrupting()
    callbacks = [diary, within, _save_every_epoch(checkpoint), interrupting]
    trainer = _trainer(module, loop, precision, SafetensorsIO(identity), callbacks)
    device, values = trainer.strategy.root_device, data.training_rows
    rows = values if isinstance(values, Lazy) else torch.from_numpy(values).to(device)
    begun = time.monotonic()
    targets = _targets(module, values, checkpoint.parent, device)
    diary.seconds = time.monotonic() - begun  # a checkpoint knows better: it has the seconds of the first time

    def batches() -> Batches:
        epoch, again = trainer.current_epoch, None
        if isinstance(module, Regrouped):
            again = partial(within.chosen, partial(regrouped, module, rows, loop.batch_rows, epoch))
        return Batches(rows, loop.batch_rows, loop.seed, epoch, targets, device, again, within.done)

    module.train_dataloader = batches  # type: ignore[method-assign]
    try:
        with interrupting:
            trainer.fit(module, ckpt_path=checkpoint if processes.agreed(checkpoint.exists()) else None)
    except SystemExit as interrupted:  # Lightning turns Ctrl-C into an exit
        raise KeyboardInterrupt from interrupted
    if interrupting.asked:  # after the last batch
        raise KeyboardInterrupt
    test = _tested(module, data, loop, trainer, precision)
    return Trained(
        epochs=loop.epochs,
        seconds=round(diary.seconds, 1),
        device=_device_name(trainer.strategy.root_device, precision),
        history=tuple(diary.history),
        test=test,
    )


def check_shared(loop: LoopConfig, num_rows: int | None, ranks: int) -> None:
    """Whether so many processes can share a batch.

    Raises:
        OptionError: they cannot, or a compiler takes part.
        DataError: there are fewer rows than processes.
    """
    if loop.batch_rows % ranks:
        raise OptionError(
            f"batch_rows: got {loop.batch_rows} for {ranks} processes, expected a multiple of {ranks}: each takes as"
            " many rows of a batch"
        )
    if loop.compiled and ranks > 1:
        raise OptionError(f"compiled: got True with {ranks} processes, expected False: the two were never tried")
    if num_rows is not None and num_rows < ranks:
        raise DataError(f"got {num_rows} training rows for {ranks} processes, expected one for each or more")


def _targets(module: LightningModule, values: Any, folder: Path, device: torch.device) -> torch.Tensor | None:
    """What a teacher makes of the rows: rank 0 asks it, the others read what it wrote. Or each row's own place."""
    if isinstance(module, Keeping):
        module.keep(len(values), device)
        return torch.arange(len(values), device=device)
    if not isinstance(module, Taught):
        return None
    with processes.one_first(rank() == 0):
        return module.targets(values, folder).to(device)


def _tested(
    module: LightningModule, data: Data, loop: LoopConfig, trainer: Trainer, precision: Exact
) -> dict[str, float]:
    """What the method logs on the test split: by rank 0 alone, so that it is what it would be of one process."""
    if rank() or not len(data.test_rows):
        return {}
    with alone():
        if isinstance(trainer.strategy, DDPStrategy):
            trainer = _trainer(module, loop, precision)
        torch.manual_seed(loop.seed)
        test_batches: Any = Parts(data.test_rows, TEST_BATCH_ROWS)
        (test,) = trainer.test(module, DataLoader(test_batches, batch_size=None), verbose=False)
    return {name: float(value) for name, value in test.items()}


def _compile(module: LightningModule) -> None:
    """Compiles the encoder in place: the names of its weights stay.

    Raises:
        ValueError: the method has no encoder of its own.
    """
    encoder = getattr(module, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"compiled: got True, expected False: {type(module).__name__} has no one encoder to compile")
    encoder.compile()


def _trainer(
    module: LightningModule,
    loop: LoopConfig,
    precision: Exact,
    checkpoints: SafetensorsIO | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """On the GPU if there is one; of several ranks each on its own."""
    progress = [TQDMProgressBar(refresh_rate=10)] if sys.stderr.isatty() else []
    return Trainer(
        max_epochs=loop.epochs,
        precision=precision,
        logger=False,
        enable_checkpointing=checkpoints is not None,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[*callbacks, *progress],
        enable_progress_bar=bool(progress),
        num_sanity_val_steps=0,
        **_devices(module, [checkpoints] if checkpoints is not None else []),
    )


def _devices(module: LightningModule, plugins: list[Any]) -> dict[str, Any]:
    """The arguments of Lightning's trainer that say on what it runs, and with whom."""
    here = processes.place()
    if here is None or num_ranks() == 1:
        plugins = plugins if here is None else [*plugins, LightningEnvironment()]  # one of many, alone
        return {"accelerator": "auto", "devices": 1, "plugins": plugins}
    cuda = processes.device().type == "cuda"
    strategy = DDPStrategy(
        broadcast_buffers=False,  # BatchNorm's are the same everywhere
        find_unused_parameters=not module.automatic_optimization,  # optimizers that take turns
    )
    return {
        "accelerator": "cuda" if cuda else "cpu",
        "devices": here.local_ranks,
        "num_nodes": here.num_nodes,
        "strategy": strategy,
        "sync_batchnorm": cuda,
        "plugins": [*plugins, TorchElasticEnvironment(), *([] if cuda else [NormsOverRanks()])],
    }


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
    name = f"{name}, bfloat16" if precision == "bf16-mixed" else name
    return name if num_ranks() == 1 else f"{name}, of each of {num_ranks()} processes"
