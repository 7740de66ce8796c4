"""Batches of rows: from memory, or decoded as they are asked for, one while the network works on the one before.

Of several ranks each takes its part of every batch, and decodes no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from training.data.lazy import Lazy, as_values
from training.ranks import mine, num_ranks

CPU = torch.device("cpu")


def ahead(rows: NDArray[Any], batches: list[NDArray[Any]], device: torch.device) -> Iterator[Tensor]:
    """The rows of each batch on a device; one batch is made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for places in [*batches, None]:
            given, coming = coming, None if places is None else pool.submit(np.asarray, rows[places])
            if given is not None:
                yield torch.from_numpy(given.result()).to(device)


def rows_of(rows: Tensor | Lazy, parts: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The rows of each part, given by their numbers, on the device where they lie; if they are decoded, on `device`."""
    if isinstance(rows, Lazy):
        return ahead(as_values(rows), [part.cpu().numpy() for part in parts], device)
    return (rows[part.to(rows.device)] for part in parts)


class Parts(Dataset[Tensor]):
    """Rows in their order, so many to an item."""

    def __init__(self, rows: NDArray[Any], num_rows: int) -> None:
        self.rows = rows
        self.num_rows = num_rows

    def __len__(self) -> int:
        return -(-len(self.rows) // self.num_rows)

    def __getitem__(self, part: int) -> Tensor:
        start = part * self.num_rows
        return torch.from_numpy(np.asarray(self.rows[start : start + self.num_rows]))


class Batches:
    """Minibatches of rows that lie in memory as uint8, or are decoded, in an order drawn by (seed, epoch).

    The last batch is dropped when it is not full: BatchNorm must not meet a batch of one. Where each row has a target
    a batch is both. Of several ranks each gets its part of every batch, so all get as many.
    `regrouped` gives order and targets in place of these (`running.regrouping`); where an epoch goes on, `done` says
    behind how many batches. Both are asked when the first batch is wanted.
    """

    def __init__(
        self,
        rows: Tensor | Lazy,
        batch_rows: int,
        seed: int,
        epoch: int,
        targets: Tensor | None = None,
        device: torch.device = CPU,
        regrouped: Callable[[], tuple[Tensor, Tensor]] | None = None,
        done: Callable[[], int] = int,
    ) -> None:
        self.rows = rows
        self.targets = targets
        self.device = device
        self.regrouped = regrouped
        self.batch_rows = min(batch_rows, len(rows)) // num_ranks() * num_ranks()
        self.generator_seed = seed * 1_000_003 + epoch
        self._done = done

    def __len__(self) -> int:
        return len(self.rows) // self.batch_rows

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        order, targets = self._drawn() if self.regrouped is None else self.regrouped()
        if not isinstance(self.rows, Lazy):
            order = order.to(self.rows.device)
        parts = [mine(part) for part in torch.split(order, self.batch_rows)[self._done() : len(self)]]
        for batch, chosen in zip(rows_of(self.rows, parts, self.device), parts, strict=True):
            yield batch if targets is None else (batch, targets[chosen.to(targets.device)])

    def _drawn(self) -> tuple[Tensor, Tensor | None]:
        generator = torch.Generator().manual_seed(self.generator_seed)
        return torch.randperm(len(self.rows), generator=generator), self.targets
