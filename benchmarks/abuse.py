"""Peers that misbehave, each with an honest caller beside it, on both transports; a fresh server for each.

    python -m benchmarks.abuse MODELS                      all, on both transports
    python -m benchmarks.abuse MODELS "rapid reset" PING   these

Prints a line for each: how long the honest caller waited (one image, every 20 ms), how many of its calls failed, what
memory the server held before, at most and four seconds after the peer had gone, and whether it drained. `64 file
descriptors` runs the idle connections against a server that has no more.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.abuses import abuses, idle
from benchmarks.served import ServedProcess
from latentserve.client import Client
from latentserve.errors import LatentserveError
from latentserve.v1 import embedding_pb2 as pb

PAUSE_SECONDS = 0.02
FEW_FILES = 64
MANY_ROWS = 1024
FEW_DESCRIPTORS = "64 file descriptors"


@dataclass
class Honest:
    """A caller that asks for one embedding after another.

    Attributes:
        seconds: that each call took.
        faults: of those that failed.
    """

    target: str
    shape: tuple[int, ...]
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until `stop`."""
        row = np.zeros((1, *self.shape), np.uint8)
        with Client(self.target, timeout_seconds=10) as client:
            while not self.stop.is_set():
                started = time.monotonic()
                try:
                    client.embed(row)
                except LatentserveError as error:
                    self.faults.append(str(error))
                self.seconds.append(time.monotonic() - started)
                time.sleep(PAUSE_SECONDS)

    def quantile(self, share: float) -> float:
        """Milliseconds that so many of the calls took at most."""
        return 1000 * float(np.quantile(self.seconds, share)) if self.seconds else math.nan


class Memory(threading.Thread):
    """Looks at the memory of a process ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.most = self.before = self.now()
        self.stop = threading.Event()

    def now(self) -> int:
        """MiB."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) // 1024

    def run(self) -> None:
        """Until `stop`."""
        while not self.stop.wait(0.1):
            self.most = max(self.most, self.now())


def shape_of(models: Path) -> tuple[int, ...]:
    """Of an image that the one model takes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ServedProcess(models, Path(folder) / "log") as process,
        Client(process.target) as client,
    ):
        return tuple(client.get_model().model.input.shape)


def try_one(name: str, transport: str, models: Path, shape: tuple[int, ...]) -> str:
    """One abuse; returns its line of the table."""
    data = bytes(MANY_ROWS * math.prod(shape))
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[MANY_ROWS, *shape], data=data)
    message = pb.EmbedRequest(input=pb.Input(tensor=tensor)).SerializeToString()
    few = name == FEW_DESCRIPTORS
    abuse = idle if few else abuses(b"\0" + len(message).to_bytes(4) + message)[name]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory() as folder:
        process = ServedProcess(models, Path(folder) / "log", ("--transport", transport))
        if few:
            resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, before[1]))
        try:
            process.__enter__()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        honest = Honest(process.target, shape)
        caller = threading.Thread(target=honest.run)
        caller.start()
        time.sleep(1)
        memory = Memory(process.pid)
        memory.start()
        peers = abuse(int(process.target.split(":")[1]))
        held = len(peers)
        for peer in peers:
            peer.close()
        time.sleep(4)
        honest.stop.set()
        caller.join()
        memory.stop.set()
        after = memory.now()
        started = time.monotonic()
        status = process.stop()
        drained = f"{time.monotonic() - started:.1f} s" if status == 0 else f"status {status}"
    waits = f"{honest.quantile(0.5):.0f} | {honest.quantile(0.99):.0f} | {1000 * max(honest.seconds):.0f}"
    failed = f"{len(honest.faults)} of {len(honest.seconds)}"
    grew = f"{memory.before} | {memory.most} | {after}"
    return f"| {name} | {transport} | {waits} | {failed} | {grew} | {held} | {drained} |"


def main(models: Path, names: list[str]) -> None:
    """Prints the table."""
    shape = shape_of(models)
    print("| abuse | transport | p50 ms | p99 | max | failed | MiB before | at most | after | connections | drained |")
    print("| --- " * 11 + "|")
    for name in names or [*abuses(b""), FEW_DESCRIPTORS]:
        for transport in ("http2", "grpcio"):
            print(try_one(name, transport, models, shape), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
