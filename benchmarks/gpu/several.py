"""Stage `several`: what a second engine on the same GPU is worth, in the same server or in a server of its own.

    one         one server with one engine
    instances   one server, `--instances 2`: two engines, two streams, one Python
    processes   two servers with one engine each, and half of the clients before each: two Pythons

Requests of 1, 8 and 64 raw images. Where `processes` gains and `instances` does not, Python is the wall, and several
servers behind Envoy are the answer; where both gain, the GPU was idle between batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.gpu.cells import Cells, Figures
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.prepared import encoder_bundle
from benchmarks.gpu.serve import HEADERS, MAX_BATCH_ROWS, MEASURED, MOST_ROWS, REHEARSED, bodies, sizes_of
from benchmarks.processes.served import ServedProcess
from benchmarks.serving.closedloop import closed_loop
from benchmarks.serving.encoder_inputs import images

ROWS, REHEARSED_ROWS = (64, 1, 8), (8,)
CLIENTS = 128
WAYS = {"one": (1, 1), "instances": (1, 2), "processes": (2, 1)}
"""Servers, and engines of each."""


def run(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """A cell for each encoder and size of request. Nothing is held against a target: it is to be known."""
    for name, precision in machine.choose(MEASURED, REHEARSED):
        made = encoder_bundle(folder, name, precision)
        for rows in machine.choose(ROWS, REHEARSED_ROWS):
            cells.measure(f"{name} {precision} raw {rows}", partial(rates, machine, made, name, rows))
    return []


def rates(machine: Machine, made: Path, name: str, rows: int) -> Figures:
    """Images a second of each way, and what each is worth beside `one`."""
    body = bodies(images(name, rows))
    found: Figures = {}
    for way, (servers, engines) in WAYS.items():
        with _served(machine, made, servers, engines) as targets:
            found[way] = _rate(machine, targets, body, rows) * rows
    return found | {f"{way}_of_one": found[way] / found["one"] for way in WAYS if way != "one"}


@contextlib.contextmanager
def _served(machine: Machine, made: Path, servers: int, engines: int) -> Iterator[list[str]]:
    repository = made.parents[1]
    arguments = ("--device", machine.device, "--instances", str(engines), "--max-batch-rows", str(MAX_BATCH_ROWS))
    with contextlib.ExitStack() as stack:
        targets = []
        for number in range(servers):
            log = repository.parent / f"several-{repository.name}-{number}.log"
            server = stack.enter_context(ServedProcess(repository, log, arguments, own_session=True))
            targets.append(server.target)
        yield targets


def _rate(machine: Machine, targets: list[str], body: bytes, rows: int) -> float:
    """Requests a second of all servers, the clients divided among them."""
    sizes = sizes_of(machine)
    clients = min(CLIENTS, sizes.most_clients, MOST_ROWS // rows) // len(targets)
    processes = max(1, min(sizes.processes // len(targets), clients))

    def load(target: str, seconds: float) -> float:
        url = f"http://{target}/latentserve.v1.EmbeddingService/Embed"
        tally = closed_loop(url, body, HEADERS, clients, seconds, processes)
        if set(tally.codes) != {"0"}:
            raise RuntimeError(f"answers by status: {tally.codes}, expected 0 alone")
        return tally.answered_per_second

    with ThreadPoolExecutor(len(targets)) as pool:
        list(pool.map(lambda target: load(target, sizes.seconds / 3), targets))  # the pace is learned
        return sum(pool.map(lambda target: load(target, sizes.seconds), targets))
