"""What clients saw, put together from the processes that they ran in."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.load_client import LoadClient

GRACE_SECONDS = 2.0
"""How long answers may come after the last request has left."""


@dataclass(frozen=True)
class Tally:
    """What the clients saw.

    Attributes:
        seconds: that requests were sent for.
        sent: requests.
        codes: answers by gRPC status number, and `unanswered`, `reset`.
        p50_ms: median latency of the answers with status 0, from the intended send time.
        p99_ms: 99th percentile of them.
        late_ms: 99th percentile of how late the generator itself sent.
        last_failure_seconds: after the start, of an answer with another status than 0; None without one.
    """

    seconds: float
    sent: int
    codes: dict[str, int]
    p50_ms: float
    p99_ms: float
    late_ms: float
    last_failure_seconds: float | None = None

    @property
    def answered_per_second(self) -> float:
        """Answers with status 0."""
        return self.codes.get("0", 0) / self.seconds


def run_jobs(module: str, jobs: list[dict[str, Any]], body: bytes, seconds: float) -> Tally:
    """Runs each job in a process of its own, `python -m MODULE`, at the same time.

    Raises:
        RuntimeError: a process failed.
        subprocess.TimeoutExpired: one takes a minute longer than `seconds`.
    """
    encoded = base64.b64encode(body).decode()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in jobs
    ]
    try:
        starts_at = time.monotonic() + 1.0 if len(jobs) > 1 else 0.0  # processes need that long to start
        for process, job in zip(processes, jobs, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(job | {"body": encoded, "starts_at": starts_at}))
            process.stdin.close()
            process.stdin = None
        parts = []
        for process in processes:
            out, problem = process.communicate(timeout=seconds + GRACE_SECONDS + 60)
            if process.returncode:
                raise RuntimeError(f"{module}: {problem.strip().rpartition(chr(10))[2]}\n{problem}")
            parts.append(json.loads(out))
    finally:
        for process in processes:
            process.kill()
    return _together(parts)


def part_of(clients: list[LoadClient], sent: int, seconds: float, started: float) -> dict[str, Any]:
    """What one process tells: JSON."""
    codes = sum((client.seen.codes for client in clients), Counter[str]())
    if sent > codes.total():
        codes["unanswered"] = sent - codes.total()
    failed_at = [moment - started for client in clients for moment in client.seen.failed_at]
    return {
        "seconds": seconds,
        "sent": sent,
        "codes": dict(codes),
        "latencies": _text([one for client in clients for one in client.seen.latencies]),
        "late": _text([one for client in clients for one in client.seen.late]),
        "last_failure": max(failed_at, default=None),
    }


def read_job() -> tuple[dict[str, Any], bytes]:
    """The job on stdin and the body of its requests; waits for the moment it is to start."""
    job: dict[str, Any] = json.load(sys.stdin)
    body = base64.b64decode(job.pop("body"))
    time.sleep(max(0.0, job["starts_at"] - time.monotonic()))
    return job, body


def _together(parts: list[dict[str, Any]]) -> Tally:
    latencies = np.concatenate([_numbers(part["latencies"]) for part in parts])
    late = np.concatenate([_numbers(part["late"]) for part in parts])
    failures = [part["last_failure"] for part in parts if part["last_failure"] is not None]
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3 if len(latencies) else (float("nan"), float("nan"))
    return Tally(
        seconds=max(part["seconds"] for part in parts),
        sent=sum(part["sent"] for part in parts),
        codes=dict(sum((Counter(part["codes"]) for part in parts), Counter[str]())),
        p50_ms=float(p50),
        p99_ms=float(p99),
        late_ms=float(np.percentile(late, 99)) * 1e3 if len(late) else float("nan"),
        last_failure_seconds=max(failures, default=None),
    )


def _text(numbers: list[float]) -> str:
    return base64.b64encode(np.array(numbers, np.float32).tobytes()).decode()


def _numbers(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), np.float32)
