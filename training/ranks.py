"""Training on several processes: each is a rank and trains on its part of every batch.

Every rank draws what one process would draw, for the rows of all ranks and from the same seed, and takes what belongs
to its own rows. So order, views and noise do not depend on how many ranks there are, and a method needs to say only
what its loss must see of the other ranks: `gathered`. Rank r has the r-th part of the rows of a batch, in their order.

    one process     x = torch.rand(len(rows), 3)
    any number      x = mine(torch.rand(num_of_all(len(rows)), 3))

The gradient of a loss that sees rows of other ranks comes back to them, summed over the ranks that saw them. DDP takes
the mean over ranks. So with L_r the loss of rank r the gradient is that of mean_r L_r: a mean over rows that is taken
over a rank's own rows, or a loss of all rows that every rank computes alike, is the loss of one process.

Where there is one process all of these give back what they are given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, distributed

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What runs within is no part of what the ranks do together: an evaluation by one of them."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and not _ALONE.get()


def num_ranks() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if _together() else 0


def num_of_all(num_rows: int) -> int:
    """Rows of all ranks, where each has as many as this one."""
    return num_rows * num_ranks()


def mine(rows: Tensor, dim: int = 0) -> Tensor:
    """The part that is this rank's own."""
    return rows if num_ranks() == 1 else rows.chunk(num_ranks(), dim)[rank()]


def among_all(rows: Tensor) -> Tensor:
    """This rank's rows at their place among zeros for those of the others: what noise is drawn like."""
    if num_ranks() == 1:
        return rows
    everyones = rows.new_zeros(num_of_all(len(rows)), *rows.shape[1:])
    mine(everyones).copy_(rows.detach())
    return everyones


class _Gathered(torch.autograd.Function):
    """The rows of all ranks, in rank order; the gradient comes back from all ranks too."""

    @staticmethod
    def forward(_: object, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(num_ranks())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: object, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, through which the gradient flows back to all of them. Each has as many."""
    if num_ranks() == 1:
        return rows
    everyones: Tensor = _Gathered.apply(rows)  # type: ignore[no-untyped-call]
    return everyones


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of a number [] over the ranks, with its gradient."""
    return value if num_ranks() == 1 else gathered(value[None]).mean()
