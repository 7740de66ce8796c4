"""Starts one process for each device of this machine, through torchrun's own agent, and says which of them failed.

    python -m training METHOD --devices 2                              this machine alone: nothing else is needed
    torchrun --nproc-per-node 2 -m -- training METHOD                  the same by torchrun
    torchrun --nnodes 2 --nproc-per-node 8 ... -m -- training METHOD   several machines, on each of them

The two dashes are there because torchrun would take `--run` for the beginning of an option of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from latentserve.cpus import available_cpus
from training.options import OptionError
from training.running.processes import check_devices, place

THREADS = "OMP_NUM_THREADS"
SECONDS_TO_STOP = 15
"""That a rank has to end, once another one died, before it is killed."""
RENDEZVOUS = "--rdzv-backend c10d --rdzv-endpoint HOST:29400"


def check_ranks(devices: int | None, nodes: int | None, command: str) -> bool:
    """Whether processes are still to be started: they are asked for, and nobody started them yet.

    Raises:
        OptionError: there are other processes than those that are asked for, or several machines and no torchrun.
    """
    for name, asked in (("devices", devices), ("nodes", nodes)):
        if asked is not None and asked < 1:
            raise OptionError(f"{name}: got {asked}, expected 1 or more")
    here = place()
    if here is not None:
        for name, asked, num in (("devices", devices, here.local_ranks), ("nodes", nodes, here.num_nodes)):
            if asked not in (None, num):
                raise OptionError(f"{name}: got {asked}, expected {num}, as many as torchrun started, or none")
        return False
    if nodes is not None and nodes > 1:
        raise OptionError(
            f"nodes: got {nodes} without torchrun, expected on each of the {nodes} machines: torchrun --nnodes {nodes}"
            f" --nproc-per-node {devices or 1} {RENDEZVOUS} -m -- training {command}"
        )
    check_devices(devices or 1)
    return devices is not None and devices > 1


def launch(arguments: Sequence[str], devices: int) -> int:
    """Runs the command line in so many processes; returns the exit status.

    A rank that fails ends the others. What it said itself, it said; of one that said nothing this says how it died.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault(THREADS, str(max(1, available_cpus() // devices)))
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they say it in pages
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=SECONDS_TO_STOP,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "training", *arguments)
    except ChildFailedError as failed:
        number, failure = failed.get_first_failure()
        print(told(number, failure), file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    except (SignalException, KeyboardInterrupt) as stopped:
        got = getattr(stopped, "sigval", signal.SIGINT)
        if got != signal.SIGINT:  # rank 0 says so of Ctrl-C
            print(f"\nstopped by {signal.Signals(got).name}; go on with --resume", file=sys.stderr)
        return 128 + got
    return 0


def told(number: int, failure: Any) -> str:
    """Which rank ended the job, and how."""
    who = f"rank {number} (process {failure.pid})"
    if failure.exitcode < 0:
        return f"error: {who} was ended by {failure.signal_name()}, the others with it; go on with --resume"
    return f"stopped: {who} failed, the others were ended"
