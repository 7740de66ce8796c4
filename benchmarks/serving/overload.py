"""Overload: three times as many requests as the server can answer, each with a deadline, for half a minute.

    python -m benchmarks.serving.overload        about a minute on two cores

First the capacity: a closed loop. Then an open loop at three times that rate. Goodput is what was answered with OK, and
the server answers OK only before the client's deadline. The other calls must have been rejected or shed with the right
code, as the clients saw it and as the server counted it; hardly a row may have been run whose client had left
when it was done, and memory must stay where it was.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.processes.served import ServedProcess
from benchmarks.serving.encoder_inputs import CHANNELS, IMAGE_SIZE
from benchmarks.serving.encoders import write_bundle
from benchmarks.serving.load import closed_loop, require_h2load
from benchmarks.serving.openloop import open_loop
from benchmarks.serving.peers.triton import grpc_message
from latentserve.errors import Code
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

FOLDER = Path("build/bench")
DEAD = "latentserve_dead_work_rows_total"
MOST_DEAD = 0.05
"""Of the rows run. `service.scheduling.pace.SLOW` sheds in time what a slow batch would answer too late; 1 % stays."""
RIGHT_CODES = {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
HEADERS = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Options:
    """Overloads a server with ResNet-18 behind it.

    Attributes:
        factor: offered rate, as a multiple of the capacity.
        deadline_ms: deadline of each call.
        seconds: length of the open loop.
        clients: number of clients in the closed loop that measures the capacity.
    """

    factor: float = 3.0
    deadline_ms: int = 200
    seconds: float = 30.0
    clients: int = 32


def main(options: Options) -> int:
    """Runs both loops; returns 1 if a code is wrong or dead work was done."""
    require_h2load()
    bundles = FOLDER / "bundles" / "r18"
    if not bundles.exists():
        write_bundle("r18", bundles)
    image = np.random.default_rng(0).integers(0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8)
    body = grpc_message(pb.EmbedRequest(input=pb.Input(tensor=to_tensor(image))).SerializeToString())
    with ServedProcess(bundles, FOLDER / "overload.log") as server:
        url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
        capacity = closed_loop(url, body, HEADERS, options.clients, 3000, False).requests_per_second
        before = server.metrics()
        deadline = (*HEADERS, f"grpc-timeout: {options.deadline_ms}m")
        rate = options.factor * capacity
        tally = open_loop(url, body, deadline, rate, options.seconds)
        after = server.metrics()

    def grew(prefix: str) -> float:
        return sum(value - before.get(name, 0.0) for name, value in after.items() if name.startswith(prefix))

    seen = {name_of(code): count for code, count in tally.codes.items()}
    served = {name: grew(f'latentserve_requests_total{{code="{name}",') for name in seen}
    figures = {
        "capacity_per_second": capacity,
        "offered_per_second": rate,
        "goodput_per_second": tally.answered_per_second,
        "goodput_of_capacity": tally.answered_per_second / capacity,
        "p50_ms_of_answers": tally.p50_ms,
        "p99_ms_of_answers": tally.p99_ms,
        "sent_late_ms": tally.late_ms,
        "codes": seen,
        "other_codes": sum(count for name, count in seen.items() if name not in RIGHT_CODES),
        "counted_otherwise_by_the_server": {n: served[n] - seen[n] for n in seen if served[n] != seen[n]},
        "rows_answered_too_late": grew("latentserve_batch_rows_sum") - seen.get("OK", 0),
        "dead_work_rows": grew(DEAD),
        "memory_grew_mib": (after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]) / 2**20,
    }
    print(json.dumps(figures, indent=2))
    (FOLDER / "overload.json").write_text(json.dumps(figures, indent=2) + "\n")
    return int(bool(figures["other_codes"]) or grew(DEAD) > MOST_DEAD * grew("latentserve_batch_rows_sum"))


def name_of(code: str) -> str:
    """The name of a gRPC status number; what is no number stays."""
    return "OK" if code == "0" else Code(int(code)).name if code.isdigit() else code


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving.overload")))
