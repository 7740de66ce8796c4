"""This process among those that torchrun, or whoever speaks its environment, started for one training.

Each has a rank, a device and a share of every batch. They speak nccl where there are GPUs, one a rank, else gloo. A
second group, of gloo, is for waiting: rank 0 may be busy for hours with what it does for all, and whoever waits is not
to give up. A rank that dies is not found out by the others waiting for it but by the launcher, which ends them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from latentserve import records
from training.options import OptionError
from training.ranks import num_ranks

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LONGEST_STEP = timedelta(minutes=30)
"""What all do together: torch's own limit for gloo. It ends a rank whose peer is stopped but not dead."""
LONGEST_WAIT = timedelta(days=7)
SECONDS_TO_BE_ENDED = 3.0
_WAITING: list[Any] = []


class RanksError(ValueError):
    """The processes cannot train together. The message says what was got, what was expected and what to do."""


@dataclass(frozen=True)
class Place:
    """Where this process stands.

    Attributes:
        rank: of all, from 0.
        num_ranks: of all nodes.
        local_rank: on this node.
        local_ranks: of this node.
    """

    rank: int
    num_ranks: int
    local_rank: int
    local_ranks: int

    @property
    def num_nodes(self) -> int:
        """Nodes, each of which has as many ranks."""
        return self.num_ranks // self.local_ranks


def place() -> Place | None:
    """What the environment says; None where this process was started alone."""
    if any(name not in os.environ for name in VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        return None
    number, num_of_all, local, num_local = (int(os.environ[name]) for name in VARIABLES[:4])
    return Place(number, num_of_all, local, num_local)


def check_devices(devices: int, what: str = "devices") -> None:
    """Raises OptionError unless each process of this node can have a device of its own."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is not None and devices > (num := torch.cuda.device_count() if kind.type == "cuda" else 1):
        raise OptionError(
            f"{what}: got {devices}, expected at most {num}: each process takes a {kind.type} device of its own, and"
            f" {num} {'is' if num == 1 else 'are'} here"
        )


def device() -> torch.device:
    """What this rank trains on."""
    here = place()
    assert here is not None  # whoever asks is one of several
    return torch.device("cuda", here.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def is_first_here() -> bool:
    """Whether this is the first rank of its node, or the only process."""
    here = place()
    return here is None or here.local_rank == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Makes this process one of the ranks, if there are several; whoever did so already stays responsible for it.

    Raises:
        RanksError: the others were not found.
    """
    here = place()
    if here is None:
        yield
        return
    mine = not distributed.is_initialized()
    if mine:
        check_devices(here.local_ranks, "nproc-per-node")
        on = device()
        if on.type == "cuda":
            torch.cuda.set_device(on)
        try:
            distributed.init_process_group("nccl" if on.type == "cuda" else "gloo", timeout=LONGEST_STEP)
        except (RuntimeError, ValueError, OSError) as error:
            raise RanksError(f"the other ranks were not found: {str(error).splitlines()[0]}") from error
    _WAITING.append(distributed.new_group(backend="gloo", timeout=LONGEST_WAIT))
    try:
        yield
        wait()
    finally:
        _WAITING.clear()


def wait() -> None:
    """Until all ranks are here."""
    if _WAITING:
        distributed.barrier(_WAITING[0])


@contextlib.contextmanager
def one_first(first: bool) -> Iterator[None]:
    """What one rank does before the others do it, who find what it left: `first` says whether this is the one."""
    if not first:
        wait()
    yield
    if first:
        wait()


def agreed(said: bool) -> bool:
    """What rank 0 says."""
    if not _WAITING:
        return said
    held = [said]
    distributed.broadcast_object_list(held, 0, _WAITING[0])
    return held[0]


def check_same(said: dict[str, Any]) -> None:
    """Raises RanksError unless all ranks say the same: they would train different things and average them."""
    if not _WAITING:
        return
    everyones: list[Any] = [None] * num_ranks()
    distributed.all_gather_object(everyones, said, _WAITING[0])
    if other := records.differences(said, everyones[0]):
        raise RanksError(f"this rank has another training than rank 0: {'; '.join(other)}")


@contextlib.contextmanager
def only_rank_0_talks() -> Iterator[None]:
    """What the others would say, too, is said once; an error of theirs is not what is meant."""
    here = place()
    if here is None or here.rank == 0:
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def named(message: str) -> str:
    """An error of one of several ranks, with its rank."""
    here = place()
    return message if here is None or here.rank == 0 else f"rank {here.rank}: {message}"


def is_loss_of_a_rank(error: BaseException) -> bool:
    """Whether another rank is gone: gloo says so in words alone."""
    return place() is not None and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def told_of_loss() -> str:
    """The same in words, after the launcher had time to see the rank that is gone, which is to be named, not this."""
    time.sleep(SECONDS_TO_BE_ENDED)
    return "another rank is gone, whose launcher says which and how; go on with --resume"


def leave(status: int) -> int:
    """Ends the process of a rank, whose groups have threads that an interpreter that ends would wait for."""
    if place() is None or not distributed.is_initialized():
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
