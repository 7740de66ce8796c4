"""Stage `serve`: the real server under real load, beside what its engine could do at most.

Clients are raised fourfold until the rate stops rising; then latencies at half of the best rate, in an open loop. Raw
rows of 1, 8, 32 and 64 images a request, and files (JPEG) apart. CPU is what the kernel charged to the server's
process; what the event loop waited and what decoding took are the server's own metrics. An overload at three times the
capacity tells what is answered in time, and rows run for clients that had left.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from PIL import Image

from benchmarks.gpu.cells import Cells, Figures
from benchmarks.gpu.check import Check
from benchmarks.gpu.engine import rate
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.prepared import encoder_bundle
from benchmarks.processes.served import ServedProcess
from benchmarks.processes.session import cpu_seconds
from benchmarks.serving.closedloop import closed_loop
from benchmarks.serving.encoder_inputs import images
from benchmarks.serving.openloop import open_loop
from benchmarks.serving.overload import MOST_DEAD, RIGHT_CODES, name_of
from benchmarks.serving.tally import Tally
from latentserve.bundle import Precision
from latentserve.inputs import INPUT
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.config import available_cpus
from service.scheduling.queue import Piece

MEASURED: tuple[tuple[str, Precision], ...] = (("r18", "float32"), ("resnet50", "float16"))
REHEARSED: tuple[tuple[str, Precision], ...] = (("small", "float32"),)
RAW, REHEARSED_RAW = (64, 1, 8, 32), (64, 1)  # what is held against a target first
FILES, REHEARSED_FILES = (1, 32), (8,)
MAX_BATCH_ROWS = 256
MOST_CLIENTS = 512
MOST_ROWS = 2048
"""Of all clients together: half of what the server's queue holds, which would reject more."""
TIMES_AS_MANY, STILL_RISES = 4, 1.05
DEADLINE_MS = 200
OVERLOAD = 3.0
EXACT = "statuses that overload does not explain"
"""What a rehearsal checks: the rest depends on the machine."""
LEAST_OF_ENGINE = {"raw 64": 0.9, "raw 1": 0.6}
HEADERS = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Sizes:
    """How long and how much.

    Attributes:
        seconds: of one load.
        first_clients: to begin with.
        most_clients: at most.
        processes: that the clients share.
        overload_seconds: of the overload.
    """

    seconds: float
    first_clients: int
    most_clients: int
    processes: int
    overload_seconds: float


def sizes_of(machine: Machine) -> Sizes:
    """On a GPU machine, where cores are to spare, or in the rehearsal."""
    spare = max(1, min(8, available_cpus() // 2))
    return machine.choose(Sizes(1.5, 4, MOST_CLIENTS, spare, 8.0), Sizes(0.3, 2, 4, 1, 1.0))


def run(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """A cell for each encoder and way of sending, and the overload. What is held against a target comes first."""
    checks: list[Check] = []
    with contextlib.ExitStack() as stack:
        loads: dict[str, Callable[[], Load]] = {}
        for name, precision in machine.choose(MEASURED, REHEARSED):
            made = encoder_bundle(folder, name, precision)
            ceiling = cells.measure(f"{name} {precision} ceiling", partial(engine_ceiling, machine, made))
            # A server is started with its first request.
            loads[f"{name} {precision}"] = cache(partial(_load, stack, machine, made, ceiling))
        for ways in machine.choose((RAW[:2], RAW[2:], FILES), (REHEARSED_RAW, REHEARSED_FILES)):
            for label, load in loads.items():
                for rows in ways:
                    checks += _measured(cells, label, load, rows, as_files=ways in (FILES, REHEARSED_FILES))
    return [one for one in checks if not machine.rehearsal or one.name.endswith(EXACT)]


def _measured(cells: Cells, label: str, load: Callable[[], Load], rows: int, as_files: bool) -> list[Check]:
    """One way of sending, and after single raw images the overload."""
    name, way = label.split()[0], f"{'jpeg' if as_files else 'raw'} {rows}"
    body = (file_bodies if as_files else bodies)(images(name, rows))
    figures = cells.measure(f"{label} {way}", lambda: load().figures(body, rows))
    checks = []
    if way in LEAST_OF_ENGINE:
        got = figures["of_engine"] if figures else None
        checks.append(Check.at_least(f"{label} {way}: of the engine", got, LEAST_OF_ENGINE[way]))
    if way == "raw 1":
        found = cells.measure(f"{label} overload", lambda: load().overload(body))
        checks.append(Check.at_most(f"{label}: dead rows", found["dead_work_share"] if found else None, MOST_DEAD))
        checks.append(Check.at_most(f"{label}: {EXACT}", found["other_codes"] if found else None, 0))
    return checks


def _load(stack: contextlib.ExitStack, machine: Machine, made: Path, ceiling: Figures | None) -> Load:
    """A server of this bundle, until the stack is left."""
    repository = made.parents[1]
    arguments = ("--device", machine.device, "--max-batch-rows", str(MAX_BATCH_ROWS))
    log = repository.parent / f"serve-{repository.name}.log"
    server = stack.enter_context(ServedProcess(repository, log, arguments, own_session=True))
    return Load(server, sizes_of(machine), ceiling["images_per_second"] if ceiling else None)


def engine_ceiling(machine: Machine, folder: Path) -> Figures:
    """Images a second of the engine alone, at the best of the batch sizes that the server may form."""
    batches = machine.choose((64, 128, MAX_BATCH_ROWS), (64,))
    engine = machine.engine(folder, max(batches))
    found: dict[str, float] = {}
    for size in batches:
        pieces = [Piece(images(folder.parent.name, size), frozenset({"embedding"}))]
        engine.run(INPUT, pieces)
        step = partial(engine.run, INPUT, pieces)
        found[str(size)] = max(rate(step, size) for _ in range(3))
    return {"images_per_second": max(found.values()), "by_batch": found}


def bodies(rows: Any) -> bytes:
    """Raw rows as an EmbedRequest in its gRPC frame."""
    return framed(pb.EmbedRequest(input=pb.Input(tensor=to_tensor(rows))))


def file_bodies(rows: Any) -> bytes:
    """The same as JPEG files. Noise, which is more to decode than any photograph."""
    files = []
    for row in rows:
        buffer = io.BytesIO()
        Image.fromarray(row).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return framed(pb.EmbedRequest(input=pb.Input(encoded=pb.EncodedItems(items=files))))


def framed(request: Message) -> bytes:
    """As gRPC frames a message."""
    message = request.SerializeToString()
    return struct.pack(">BI", 0, len(message)) + message


class Load:
    """What the server stands.

    Args:
        server: running.
        sizes: how much.
        ceiling: images a second of its engine.
    """

    def __init__(self, server: ServedProcess, sizes: Sizes, ceiling: float | None) -> None:
        self._server, self._sizes, self._ceiling = server, sizes, ceiling
        self._url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
        self._single_rate = 0.0

    def figures(self, body: bytes, rows: int) -> Figures:
        """The best rate and its number of clients, latencies at half of it, and what it costs."""
        best, clients, tried = self._best(body, rows)
        before, cpu = self._server.metrics(), cpu_seconds(self._server.pid)
        tally = self._closed(body, clients)
        after, used = self._server.metrics(), cpu_seconds(self._server.pid) - cpu
        best = max(best, tally.answered_per_second)
        if rows == 1:
            self._single_rate = best
        half = open_loop(self._url, body, HEADERS, max(best / 2, 5.0), self._sizes.seconds, self._sizes.processes)
        answered = tally.codes.get("0", 0)
        if {code for one in (tally, half) for code in one.codes} != {"0"}:
            raise RuntimeError(f"answers by status: {tally.codes}, at half of the rate {half.codes}; expected 0 alone")
        grown = {name: after[name] - before.get(name, 0.0) for name in after}
        return {
            "images_per_second": best * rows,
            "of_engine": best * rows / self._ceiling if self._ceiling else None,
            "clients": clients,
            "tried": tried,
            "p50_ms_at_half": half.p50_ms,
            "p99_ms_at_half": half.p99_ms,
            "sent_late_ms": half.late_ms,
            "cpu_us_per_image": used / (answered * rows) * 1e6,
            "decode_us_per_image": _total(grown, "latentserve_decode_seconds_sum") / (answered * rows) * 1e6,
            "loop_lag_ms": 1e3 * _mean(grown, "latentserve_event_loop_lag_seconds"),
            "rows_a_batch": _mean(grown, "latentserve_batch_rows"),
        }

    def _best(self, body: bytes, rows: int) -> tuple[float, int, dict[str, float]]:
        """More clients, and more, until the rate stops rising."""
        most = min(self._sizes.most_clients, MOST_ROWS // rows)
        clients, best, best_clients = self._sizes.first_clients, 0.0, self._sizes.first_clients
        tried: dict[str, float] = {}
        while clients not in map(int, tried):
            rate = self._closed(body, clients).answered_per_second
            tried[str(clients)] = round(rate, 1)
            if rate <= best * STILL_RISES:
                break
            best, best_clients = rate, clients
            clients = min(most, clients * TIMES_AS_MANY)
        return best, best_clients, tried

    def _closed(self, body: bytes, clients: int) -> Tally:
        processes = min(self._sizes.processes, clients)
        return closed_loop(self._url, body, HEADERS, clients, self._sizes.seconds, processes)

    def overload(self, body: bytes) -> Figures:
        """Three times what single images came to, each with a deadline."""
        sizes = self._sizes
        capacity = self._single_rate or self._best(body, 1)[0]
        before = self._server.metrics()
        deadline = (*HEADERS, f"grpc-timeout: {DEADLINE_MS}m")
        tally = open_loop(self._url, body, deadline, OVERLOAD * capacity, sizes.overload_seconds, sizes.processes)
        after = self._server.metrics()
        grown = {name: after[name] - before.get(name, 0.0) for name in after}
        dead = _total(grown, "latentserve_dead_work_rows_total")
        return {
            "capacity_per_second": capacity,
            "goodput_of_capacity": tally.answered_per_second / capacity,
            "p99_ms_of_answers": tally.p99_ms,
            "sent_late_ms": tally.late_ms,
            "codes": tally.codes,
            "other_codes": sum(count for code, count in tally.codes.items() if name_of(code) not in RIGHT_CODES),
            "dead_work_rows": dead,
            "dead_work_share": dead / max(_total(grown, "latentserve_batch_rows_sum"), 1),
        }


def _total(metrics: dict[str, float], prefix: str) -> float:
    return sum(value for name, value in metrics.items() if name.startswith(prefix))


def _mean(metrics: dict[str, float], histogram: str) -> float:
    return _total(metrics, f"{histogram}_sum") / max(1.0, _total(metrics, f"{histogram}_count"))
