"""An open loop: requests leave at random moments of a fixed rate, whatever comes back.

    python -m benchmarks.serving.openloop < job.json        one process; prints its part of a `Tally`

Latency counts from the moment a request was meant to leave, so a client that falls behind cannot hide a server's delay
(coordinated omission). h2load cannot do this: it sends in bursts of ten milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Any

import numpy as np

from benchmarks.serving.load_client import LoadClient, clients_of, turn
from benchmarks.serving.tally import GRACE_SECONDS, Tally, part_of, read_job, run_jobs

CONNECTIONS = 8


def open_loop(
    url: str, body: bytes, headers: tuple[str, ...], rate: float, seconds: float, processes: int = 1
) -> Tally:
    """Sends `body` (with its gRPC frame) at `rate` a second, from processes of its own."""
    job = {"url": url, "headers": headers, "rate": rate / processes, "seconds": seconds}
    jobs = [job | {"seed": seed} for seed in range(processes)]
    return run_jobs("benchmarks.serving.openloop", jobs, body, seconds)


def run(clients: list[LoadClient], rate: float, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Drives the clients along a Poisson schedule, then waits for the last answers."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, int(rate * seconds)))
    started = time.monotonic() + 0.1
    schedule = deque((started + np.cumsum(gaps)).tolist())
    sent, end = len(schedule), schedule[-1] + GRACE_SECONDS
    number = 0
    while schedule or any(client.busy for client in clients):
        now = time.monotonic()
        if now > end:
            break
        while schedule and schedule[0] <= now:
            clients[number % len(clients)].ask(schedule.popleft())
            number += 1
        turn(clients, (schedule[0] if schedule else end) - time.monotonic())
    return part_of(clients, sent, float(gaps.sum()), started)


def main() -> int:
    """Reads a job from stdin, prints what its clients saw."""
    job, body = read_job()
    print(json.dumps(run(clients_of(job, CONNECTIONS, body), job["rate"], job["seconds"], job["seed"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
