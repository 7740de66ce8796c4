"""What each process of the two-process test does: a file of its own, so that it imports no more than this."""

from __future__ import annotations

import os

import torch
from torch import distributed, nn

from training.methods.simclr import nt_xent
from training.ranks import gathered


def run_rank(rank: int, folder: str) -> None:
    """Writes loss and gradient of a linear net under DDP, on this rank's half of the pairs, then ends the process."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    views_2BD = torch.load(f"{folder}/views.pt")
    net = nn.Linear(5, 3)
    net.load_state_dict(torch.load(f"{folder}/net.pt"))
    parallel = nn.parallel.DistributedDataParallel(net)
    first, second = parallel(views_2BD.chunk(2, dim=1)[rank].flatten(0, 1)).chunk(2)
    loss = nt_xent(gathered(first), gathered(second), 0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.save((loss.detach(), net.weight.grad), f"{folder}/rank{rank}.pt")
    distributed.barrier()  # a rank that leaves first can leave the other waiting for ever
    # Not torn down: the process group ends its threads while it holds the interpreter's lock, and they wait for that.
    os._exit(0)
