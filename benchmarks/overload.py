"""Overload: three times as many requests as the server can answer, each with a deadline, for half a minute.

    python -m benchmarks.overload        about two minutes on two cores

First the capacity: a closed loop. Then an open loop at three times that rate, latency counted from the intended send
time. Goodput is what was answered in time. The other calls must have been refused or given up with the right code, no
row may have been run for a caller who had gone, and memory must stay where it was.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import tyro
import uvloop

from benchmarks.encoders import CHANNELS, IMAGE_SIZE, write_bundle
from benchmarks.served import ServedProcess
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

FOLDER = Path("build/bench")
RIGHT_CODES = {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
METHOD = "/latentserve.v1.EmbeddingService/Embed"


@dataclass(frozen=True)
class Options:
    """Overloads a server with ResNet-18 behind it.

    Attributes:
        factor: offered rate, in capacities.
        deadline_seconds: of each call.
        seconds: of the open loop.
        callers: of the closed loop that measures the capacity.
    """

    factor: float = 3.0
    deadline_seconds: float = 0.2
    seconds: float = 30.0
    callers: int = 32


class Caller:
    """Sends one image again and again, and keeps a ledger."""

    def __init__(self, target: str) -> None:
        image = np.random.default_rng(0).integers(0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8)
        self._request = pb.EmbedRequest(input=pb.Input(tensor=to_tensor(image))).SerializeToString()
        self._channel = grpc.aio.insecure_channel(target)
        self._embed: Any = self._channel.unary_unary(METHOD)
        self.codes: Counter[str] = Counter()
        self.latencies: list[float] = []

    async def call(self, intended: float, deadline_seconds: float | None) -> None:
        """One call; its latency counts from when it should have been sent."""
        try:
            await self._embed(self._request, timeout=deadline_seconds)
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
            return
        self.codes["OK"] += 1
        self.latencies.append(time.perf_counter() - intended)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


async def capacity(target: str, callers: int, seconds: float) -> float:
    """Images a second that a closed loop gets answered."""
    caller = Caller(target)
    stop = time.perf_counter() + seconds

    async def again() -> None:
        while (now := time.perf_counter()) < stop:
            await caller.call(now, None)

    await asyncio.gather(*(again() for _ in range(callers)))
    await caller.close()
    return caller.codes["OK"] / seconds


async def overload(target: str, rate: float, options: Options) -> Caller:
    """An open loop: calls leave on schedule, whatever comes back."""
    caller = Caller(target)
    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    for number in range(int(rate * options.seconds)):
        intended = started + number / rate
        if (wait := intended - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(caller.call(intended, options.deadline_seconds))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    await caller.close()
    return caller


def main(options: Options) -> int:
    """Runs both loops; returns 1 if a code is wrong or dead work was done."""
    bundles = FOLDER / "bundles" / "r18"
    if not bundles.exists():
        write_bundle("r18", bundles)
    with ServedProcess(bundles, FOLDER / "overload.log") as server:
        can = uvloop.run(capacity(server.target, options.callers, 10.0))
        before = server.metrics()
        caller = uvloop.run(overload(server.target, options.factor * can, options))
        after = server.metrics()

    def grew(prefix: str) -> float:
        return sum(value - before.get(name, 0.0) for name, value in after.items() if name.startswith(prefix))

    figures = {
        "capacity_per_second": can,
        "offered_per_second": options.factor * can,
        "goodput_per_second": caller.codes["OK"] / options.seconds,
        "goodput_of_capacity": caller.codes["OK"] / options.seconds / can,
        "p99_ms_of_answered": float(np.percentile(caller.latencies, 99) * 1e3),
        "codes": dict(caller.codes),
        "dead_work_rows": grew("latentserve_dead_work_rows_total"),
        "memory_grew_mib": (after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]) / 2**20,
    }
    print(json.dumps(figures, indent=2))
    (FOLDER / "overload.json").write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if set(caller.codes) <= RIGHT_CODES and not figures["dead_work_rows"] else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.overload")))
