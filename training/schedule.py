"""How long and in what steps to train: the options of the loop, and the learning rate over its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.lightning import OptimizerLRSchedulerConfig
from training.options import check_seed

Precision = Literal["auto", "32-true", "bf16-mixed"]


@dataclass(frozen=True)
class LoopConfig:
    """How long and in what steps to train.

    Attributes:
        epochs: passes over the training split.
        batch_rows: rows of a batch.
        warmup_steps: steps over which the learning rate rises from 0.
        seed: seeds the weights, the order, the noise and the splits.
        precision: what the network's products are computed in; auto takes bfloat16 where the hardware multiplies it.
        compiled: compile the encoder (torch.compile): faster on a GPU, not on a CPU.
        save_minutes: minutes between two checkpoints within an epoch that takes longer; its end saves anyway.
    """

    epochs: int = 20
    batch_rows: int = 256
    warmup_steps: int = 200
    seed: int = 0
    precision: Precision = "32-true"
    compiled: bool = False
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_rows < 2 or self.warmup_steps < 0 or self.seed < 0:
            raise ValueError(
                f"got epochs {self.epochs}, batch_rows {self.batch_rows}, warmup_steps {self.warmup_steps}, seed"
                f" {self.seed}; expected epochs of 1, batch_rows of 2, warmup_steps and seed of 0 or more"
            )
        if not self.save_minutes > 0:
            raise ValueError(f"save_minutes: got {self.save_minutes}, expected above 0")
        check_seed(self.seed)


def warmup_then_cosine(optimizer: Optimizer, loop: LoopConfig, num_steps: int) -> OptimizerLRSchedulerConfig:
    """What `configure_optimizers` returns: the learning rate rises linearly, then falls to 0 along a cosine."""
    warmup = min(loop.warmup_steps, num_steps // 10)

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, scale), "interval": "step"},
    }
