"""A closed loop: callers each of whom sends the next request when the last is answered, in processes of their own.

    python -m benchmarks.serving.closedloop < job.json        one process; prints its part of a `Tally`

For machines without h2load (`benchmarks.serving.load`), and with more cores than one process can use.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.serving.caller import Caller, callers_of, turn
from benchmarks.serving.tally import GRACE_SECONDS, Tally, part_of, read_job, run_jobs


def closed_loop(
    url: str, body: bytes, headers: tuple[str, ...], callers: int, seconds: float, processes: int = 1
) -> Tally:
    """So many callers for so many seconds, shared among the processes."""
    job = {"url": url, "headers": headers, "seconds": seconds}
    shares = [callers // processes + (number < callers % processes) for number in range(processes)]
    jobs = [job | {"callers": share} for share in shares if share]
    return run_jobs("benchmarks.serving.closedloop", jobs, body, seconds)


def run(callers: list[Caller], seconds: float) -> dict[str, Any]:
    """Every caller asks again and again until the time is over; requests under way then are waited for."""
    started = time.monotonic()
    end = started + seconds
    for caller in callers:
        caller.ask(started)
    sent = len(callers)
    while (now := time.monotonic()) < end:
        for caller in turn(callers, end - now):
            if not caller.busy and time.monotonic() < end:
                caller.ask(time.monotonic())
                sent += 1
    while any(caller.busy for caller in callers) and time.monotonic() < end + GRACE_SECONDS:
        turn(callers, GRACE_SECONDS)
    return part_of(callers, sent, max(time.monotonic(), end) - started, started)


def main() -> int:
    """Reads a job from stdin, prints what its callers saw."""
    job, body = read_job()
    print(json.dumps(run(callers_of(job, job["callers"], body), job["seconds"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
