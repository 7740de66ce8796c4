"""Memory of a replica under all that it takes in at once, beside what docs/operating.md says that it may need.

    python -m benchmarks.serving.memory MODELS              starts a server, floods it, prints
    python -m benchmarks.serving.memory MODELS --record     and writes docs/results/serving_memory.json

Bounds are set small, so that they are reached: more senders than there is room for send tensors, then photos, then
files that take the most memory to decode, each as fast as it can. The figure is the growth of the server's peak
(VmHWM) since it was ready, and the share of it that the formula allows. Exit status 1 if it allows less than there is.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tyro

from benchmarks.decoding import cost as decoding_cost
from benchmarks.processes.served import ServedProcess
from latentserve import bundle, records
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.config import available_cpus
from service.models.repository import find_bundles

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "serving_memory.json"
MIB = 2**20
LARGE_MESSAGES = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
METHOD = "/latentserve.v1.EmbeddingService/Embed"
ITEM_PIXELS, ITEM_BYTES = 12_000_000, 4 * MIB
REQUEST_BYTES = 8 * MIB
QUEUE_BYTES, DECODING_BYTES = 64 * MIB, 64 * MIB
BYTES_OF_A_PIXEL = 20.2
"""Of the file that takes the most (`benchmarks.decoding.memory`)."""
COPIES_OF_A_FILE = 3
"""While a thread decodes it: as it came, and twice where chunks are left out (PNG) or read again (JPEG)."""
COPIES_IN_FLIGHT = 3
"""Of a request that is taken in: as received, without its frame, and in its message."""


@dataclass(frozen=True)
class Options:
    """Floods a server.

    Attributes:
        models: model repository; the first bundle of images is used.
        senders: number of connections that send at once.
        seconds: length of each flood.
        record: write docs/results/serving_memory.json.
    """

    models: tyro.conf.Positional[Path]
    senders: int = 24
    seconds: float = 15.0
    record: bool = False


@dataclass(frozen=True)
class Flood:
    """Of one kind.

    Attributes:
        kind: of what was sent.
        codes: how many requests were answered with each status.
        grown_mib: of the server's peak, from when it was ready.
    """

    kind: str
    codes: dict[str, int]
    grown_mib: float


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        cpus: of the server.
        senders: at once.
        at_rest_mib: of the server when it was ready.
        allowed_mib: growth by the formula.
        floods: one after another, of one server.
    """

    cpus: int
    senders: int
    at_rest_mib: float
    allowed_mib: float
    floods: tuple[Flood, ...]


def main(options: Options) -> int:
    """Floods, and prints a table; returns the exit status."""
    folder = find_bundles(options.models)[0]
    bounds = {
        "max-item-pixels": ITEM_PIXELS,
        "max-item-bytes": ITEM_BYTES,
        "max-request-bytes": REQUEST_BYTES,
        "max-request-rows": 10**6,
        "max-queue-rows": 10**9,
        "max-batch-rows": 4096,
        "max-queue-bytes": QUEUE_BYTES,
        "max-decoding-bytes": DECODING_BYTES,
    }
    arguments = [text for name, value in bounds.items() for text in (f"--{name}", str(value))]
    log = Path(tempfile.mkdtemp()) / "log"
    with ServedProcess(options.models, log, (*arguments, "--device", "cpu")) as server:
        rest, floods = peak_mib(server.pid), list[Flood]()
        for kind, body in requests(folder):
            codes = flood(server.target, body, options)
            floods.append(Flood(kind, codes, peak_mib(server.pid) - rest))
    found = Results(available_cpus(), options.senders, rest, allowed_mib(options.senders), tuple(floods))
    allowed = f"by the formula up to {found.allowed_mib:.0f} more"
    print(f"{found.cpus} CPUs, {found.senders} senders; at rest {rest:.0f} MiB, {allowed}")
    for one in floods:
        print(f"{one.kind}: grown by {one.grown_mib:.0f} MiB, {one.grown_mib / found.allowed_mib:.0%}; {one.codes}")
    if options.record:
        records.write(found, RESULTS)
    return int(floods[-1].grown_mib > found.allowed_mib)


def allowed_mib(senders: int) -> float:
    """The formula of docs/operating.md without what a server needs at rest."""
    thread = BYTES_OF_A_PIXEL * ITEM_PIXELS + COPIES_OF_A_FILE * ITEM_BYTES
    waits = QUEUE_BYTES + DECODING_BYTES
    return (waits + (available_cpus() + 1) * thread + COPIES_IN_FLIGHT * senders * REQUEST_BYTES) / MIB


def requests(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What is sent, as large as a request may be."""
    spec = bundle.load(folder).input.spec
    row_bytes = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    rows = np.zeros(((REQUEST_BYTES - 1024) // row_bytes, *spec.shape), spec.dtype)
    yield "tensors", pb.EmbedRequest(input=pb.Input(tensor=to_tensor(rows))).SerializeToString()
    for kind in (decoding_cost.PHOTO, "PNG RGBA, 16 bits"):
        file = decoding_cost.photo() if kind == decoding_cost.PHOTO else decoding_cost.striped(kind)
        items = [file] * ((REQUEST_BYTES - 1024) // len(file))
        yield kind, pb.EmbedRequest(input=pb.Input(encoded=pb.EncodedItems(items=items))).SerializeToString()


def flood(target: str, body: bytes, options: Options) -> dict[str, int]:
    """Sends a request again and again from many threads; how many were answered with each status."""
    codes, until = Counter[str](), time.monotonic() + options.seconds

    def send() -> None:
        with grpc.insecure_channel(target, LARGE_MESSAGES) as channel:
            call: Any = channel.unary_unary(METHOD)
            while time.monotonic() < until:
                try:
                    call(body, timeout=options.seconds)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1

    threads = [threading.Thread(target=send) for _ in range(options.senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sorted(codes.items()))


def peak_mib(pid: int) -> float:
    """The most memory that a process has held."""
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kibibytes) / 1024


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving.memory")))
