"""The load: h2load, a native HTTP/2 client in its own process (Debian: nghttp2-client).

A Python client would take the cores that the server needs. h2load logs every request's start and duration, from which
the percentiles are taken. Open loops are `openloop`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Load:
    """What a run measured.

    Attributes:
        requests_per_second: answered.
        p50_ms: median latency.
        p99_ms: 99th percentile.
        num_failed: requests without HTTP 200.
    """

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    num_failed: int


def closed_loop(url: str, body: bytes, headers: tuple[str, ...], clients: int, num_requests: int, http1: bool) -> Load:
    """So many clients, each of whom sends the next request when the last is answered."""
    arguments = ["-c", str(clients), "-m", "1", "-n", str(num_requests)]
    return _run(url, body, headers, arguments, http1)


def require_h2load() -> None:
    """Raises SystemExit with what to install if it is not there."""
    if shutil.which("h2load") is None:
        raise SystemExit("make bench needs h2load: apt-get install nghttp2-client")


def _run(url: str, body: bytes, headers: tuple[str, ...], arguments: list[str], http1: bool) -> Load:
    with tempfile.TemporaryDirectory() as scratch:
        data, log = Path(scratch) / "body", Path(scratch) / "log"
        data.write_bytes(body)
        command = ["h2load", "-t", "1", *arguments, "-d", str(data), f"--log-file={log}"]
        for header in headers:
            command += ["-H", header]
        command += ["--h1", url] if http1 else [url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
        rows = np.loadtxt(log, ndmin=2) if log.exists() and log.stat().st_size else np.empty((0, 3))
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", done.stdout)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    if rate is None or failed is None or not len(rows):
        raise RuntimeError(f"h2load printed no figures:\n{done.stdout}\n{done.stderr}")
    num_bad = int((rows[:, 1] != 200).sum())
    milliseconds = rows[:, 2] / 1e3
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Load(float(rate[1]), float(p50), float(p99), max(num_bad, int(failed[1])))
