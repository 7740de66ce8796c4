"""An honest client: one row at a time, a pause between two, until its standard input is closed.

python -m benchmarks.abuse.honest HOST:PORT

Prints what it saw as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from latentserve.client import Client
from latentserve.errors import LatentserveError

PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Seen:
    """By the client.

    Attributes:
        calls: it made.
        failed: of them, by error.
        p50_ms: of all, failed ones and those that `due` adds too.
        p99_ms: likewise.
        max_ms: likewise.
    """

    calls: int
    failed: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float


def call(target: str, stop: threading.Event) -> Seen:
    """Calls until it is told to stop."""
    row = np.zeros((1, 8, 8, 1), np.uint8)
    taken: list[float] = []
    failed: Counter[str] = Counter()
    with Client(target, TIMEOUT_SECONDS) as client:
        client.embed(row)  # the connection
        print("calling", flush=True)
        while not stop.is_set():
            began = time.monotonic()
            try:
                client.embed(row)
            except LatentserveError as error:
                failed[type(error).__name__] += 1
            taken.append(time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)
    p50, p99, most = np.percentile(np.array(due(taken)) * 1000, (50, 99, 100))
    return Seen(len(taken), dict(failed), round(p50, 1), round(p99, 1), round(most, 1))


def due(taken: list[float]) -> list[float]:
    """Seconds of each call, and of those that would have been made while one was waited for.

    A client who waits makes no calls, so a stall of 20 s would be one call among hundreds. As HdrHistogram corrects it.
    """
    return [one - late * PAUSE_SECONDS for one in taken for late in range(max(1, int(one / PAUSE_SECONDS)))]


class HonestClient:
    """One in a process of its own, so that it does not wait for its attacker's interpreter. Stopped, it has `seen`."""

    def __init__(self, target: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.abuse.honest", target]
        self._process: subprocess.Popen[str]
        self.seen: Seen

    def __enter__(self) -> Self:
        """Raises RuntimeError if it does not get through at all."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "calling\n":
            self._process.wait()
            raise RuntimeError("the honest client was not answered")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said, _ = self._process.communicate("\n", timeout=2 * TIMEOUT_SECONDS)
        if error is None:
            self.seen = Seen(**json.loads(said))


def main(target: str) -> None:
    """Calls until a line comes."""
    stop = threading.Event()

    def heard() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=heard, daemon=True).start()
    print(json.dumps(dataclasses.asdict(call(target, stop))))


if __name__ == "__main__":
    main(sys.argv[1])
