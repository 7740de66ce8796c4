"""Replicas restarted, and one killed, under load: what clients behind Envoy see of it.

    python -m benchmarks.serving.rolling                  on the bundle of `make demo`; needs h2load
    python -m benchmarks.serving.rolling --record         and writes docs/results/rolling.json

Three replicas, Envoy with deploy/envoy/envoy.yml, an open loop at half the rate that a closed loop reaches. Targets: a
rolling restart of all three fails no call; `kill -9` of one fails under 0.1 % of the calls, none later than 3 s after.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.processes.child import free_port
from benchmarks.processes.envoy import EnvoyProcess
from benchmarks.processes.served import ServedProcess
from benchmarks.serving.load import closed_loop, require_h2load
from benchmarks.serving.openloop import open_loop
from benchmarks.serving.tally import Tally
from latentserve import bundle, records
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "rolling.json"
MODELS = Path("build") / "demo-digits" / "models"
HEADERS = ("content-type: application/grpc", "te: trailers", "grpc-timeout: 5S")
METHOD = "latentserve.v1.EmbeddingService/Embed"
REPLICAS = 3
LAME_DUCK_SECONDS = 2.5
LEAD_SECONDS = 3.0
"""Of load before something is done to the replicas."""


@dataclass(frozen=True)
class Options:
    """Restarts and kills replicas under load.

    Attributes:
        models: model repository; `make demo` makes the default one.
        rate: requests per second; default: half of what a closed loop reaches.
        record: write docs/results/rolling.json.
    """

    models: Path = MODELS
    rate: float | None = None
    record: bool = False


@dataclass(frozen=True)
class Figures:
    """What clients saw.

    Attributes:
        replicas: behind Envoy.
        capacity_per_second: requests that a closed loop of 32 clients reached; 0 if it was not measured.
        rate: requests a second that were sent.
        restart: of all replicas, one after another.
        kill: of one replica.
        killed_after_seconds: from the start of the load.
    """

    replicas: int
    capacity_per_second: float
    rate: float
    restart: Tally
    kill: Tally
    killed_after_seconds: float


class Fleet:
    """Replicas on ports of their own, and Envoy in front of them."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.models, self.folder = models, folder
        self.ports = tuple((free_port(), free_port()) for _ in range(REPLICAS))
        self.replicas: list[ServedProcess] = []
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        self.replicas = [self._started(number) for number in range(REPLICAS)]
        self.envoy = self._stack.enter_context(EnvoyProcess(tuple(port for port, _ in self.ports), self.folder))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for replica in self.replicas:
            replica.stop()

    def _started(self, number: int) -> ServedProcess:
        arguments = ("--lame-duck-seconds", str(LAME_DUCK_SECONDS), "--intra-op-threads", "1")
        log = self.folder / f"replica{number}.log"
        return ServedProcess(self.models, log, arguments, self.ports[number]).__enter__()

    def restart_all(self) -> None:
        """One after another, as a rolling update does: SIGTERM, wait, start, wait until Envoy asks it."""
        for number in range(REPLICAS):
            status = self.replicas[number].stop()
            assert status == 0, f"replica {number} ended with {status}"
            self.start(number)

    def kill(self, number: int) -> None:
        """SIGKILL: no drain, no word to anybody."""
        os.kill(self.replicas[number].pid, signal.SIGKILL)

    def start(self, number: int) -> None:
        """Starts a replica again and waits until Envoy finds it healthy."""
        self.replicas[number].stop()
        self.replicas[number] = self._started(number)
        while self.envoy.healthy() < REPLICAS:
            time.sleep(0.05)


def main(options: Options) -> int:
    """Prints what clients saw; returns 1 if a target is missed."""
    if not options.models.is_dir():
        raise SystemExit(f"models: got {options.models}, expected a model repository; `make demo` makes one")
    with tempfile.TemporaryDirectory() as scratch, Fleet(options.models, Path(scratch)) as fleet:
        figures = measured(fleet, options.rate)
    print(figures)
    if options.record:
        records.write(figures, RESULTS)
        print(RESULTS)
    return int(bool(missed(figures)))


def measured(fleet: Fleet, rate: float | None = None) -> Figures:
    """Loads the fleet, restarts it, kills one of it."""
    body, url = one_image(fleet.models), f"http://{fleet.envoy.target}/{METHOD}"
    capacity = 0.0
    if rate is None:
        require_h2load()
        capacity = closed_loop(url, body, HEADERS[:2], 32, 5000, http1=False).requests_per_second
        rate = capacity / 2
    restart = under_load(fleet.restart_all, url, body, rate, 50.0)
    kill = under_load(lambda: fleet.kill(1), url, body, rate, 12.0)
    fleet.start(1)
    return Figures(REPLICAS, capacity, rate, restart, kill, LEAD_SECONDS)


def under_load(action: Callable[[], None], url: str, body: bytes, rate: float, seconds: float) -> Tally:
    """Does something while an open loop runs.

    Raises:
        RuntimeError: it was not done when the load ended.
    """
    done = threading.Event()

    def later() -> None:
        time.sleep(LEAD_SECONDS)
        action()
        done.set()

    thread = threading.Thread(target=later)
    thread.start()
    tally = open_loop(url, body, HEADERS, rate, seconds)
    in_time = done.is_set()
    thread.join()
    if not in_time:
        raise RuntimeError(f"what was to happen under load took longer than {seconds - LEAD_SECONDS:g} s")
    return tally


def one_image(models: Path) -> bytes:
    """A gRPC message with one row of the first bundle's golden rows."""
    folder = sorted(models.glob("*/*/bundle.json"))[0].parent
    rows = bundle.load_arrays(folder / bundle.GOLDEN)["input"]
    request = pb.EmbedRequest(input=pb.Input(tensor=to_tensor(np.ascontiguousarray(rows[:1]))))
    message = request.SerializeToString()
    return bytes([0]) + len(message).to_bytes(4, "big") + message


def missed(figures: Figures) -> list[str]:
    """Targets that are missed."""
    found = []
    if set(figures.restart.codes) != {"0"}:
        found.append(f"the restart failed calls: {figures.restart.codes}")
    num_failed = figures.kill.sent - figures.kill.codes.get("0", 0)
    if num_failed >= 0.001 * figures.kill.sent:
        found.append(f"the kill failed {num_failed} of {figures.kill.sent} calls")
    last = figures.kill.last_failure_seconds
    if last is not None and last > figures.killed_after_seconds + 3:
        found.append(f"calls still failed {last - figures.killed_after_seconds:.1f} s after the kill")
    print(*found, sep="\n")
    return found


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving.rolling")))
