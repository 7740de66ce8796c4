"""Models that choose before each epoch, by what their encoder makes of all training rows, what the epoch trains on.

Rows are encoded in parts, in memory or decoded as they are asked for; of several ranks each encodes its share, and all
go on with what rank 0 found. What is chosen depends on the weights as the epoch begins, the seed and the epoch, so that
a checkpoint needs to hold nothing of it.

Shape legend: N rows, D feature.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.data.lazy import Lazy
from training.methods.encoding import Regrouped
from training.ranks import gathered, mine, num_ranks
from training.running.batches import rows_of


def regrouped(module: Regrouped, rows: Tensor | Lazy, at_once: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The order in which rows are taken, int64 [N], and what each is to be told as, [N, ...]; the same on all ranks."""
    order_N, targets_N = module.regroup(features_of_all(module, rows, at_once), epoch)
    first = [gathered(one.to(targets_N.device))[: len(one)] for one in (order_N, targets_N)]
    return first[0], first[1]


def features_of_all(module: Any, rows: Tensor | Lazy, at_once: int) -> Tensor:
    """The features of all rows, [N, D], each as it would be in eval mode, whatever rows are beside it."""
    num_rows = len(rows)
    padded = torch.arange(-(-num_rows // num_ranks()) * num_ranks()) % num_rows
    parts = list(torch.split(mine(padded), at_once))
    module.eval()
    with torch.no_grad(), module.trainer.precision_plugin.forward_context():
        found = [module.features(part) for part in rows_of(rows, parts, module.device)]
    module.train()
    return gathered(torch.cat(found))[:num_rows]
