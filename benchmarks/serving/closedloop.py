"""A closed loop: clients each of whom sends the next request when the last is answered, in processes of their own.

    python -m benchmarks.serving.closedloop < job.json        one process; prints its part of a `Tally`

For machines without h2load (`benchmarks.serving.load`), and with more cores than one process can use.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.serving.load_client import LoadClient, clients_of, turn
from benchmarks.serving.tally import GRACE_SECONDS, Tally, part_of, read_job, run_jobs


def closed_loop(
    url: str, body: bytes, headers: tuple[str, ...], clients: int, seconds: float, processes: int = 1
) -> Tally:
    """So many clients for so many seconds, shared among the processes."""
    job = {"url": url, "headers": headers, "seconds": seconds}
    shares = [clients // processes + (number < clients % processes) for number in range(processes)]
    jobs = [job | {"clients": share} for share in shares if share]
    return run_jobs("benchmarks.serving.closedloop", jobs, body, seconds)


def run(clients: list[LoadClient], seconds: float) -> dict[str, Any]:
    """Every client asks again and again until the time is over; requests under way then are waited for."""
    started = time.monotonic()
    end = started + seconds
    for client in clients:
        client.ask(started)
    sent = len(clients)
    while (now := time.monotonic()) < end:
        for client in turn(clients, end - now):
            if not client.busy and time.monotonic() < end:
                client.ask(time.monotonic())
                sent += 1
    while any(client.busy for client in clients) and time.monotonic() < end + GRACE_SECONDS:
        turn(clients, GRACE_SECONDS)
    return part_of(clients, sent, max(time.monotonic(), end) - started, started)


def main() -> int:
    """Reads a job from stdin, prints what its clients saw."""
    job, body = read_job()
    print(json.dumps(run(clients_of(job, job["clients"], body), job["seconds"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
