"""Serving, as ratios in one run: ours beside its peers and beside ONNX Runtime alone.

    python -m benchmarks.serving        `make bench`: about eight minutes on two cores

All servers are up at once and idle but the one that is measured; rounds are interleaved and medians are shown, so a
machine that slows down slows all alike. Answers are held against ONNX Runtime before anything is timed. CPU is what the
operating system charged to all of a server's processes: on a shared machine it is the steadiest figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes.served import ServedProcess
from benchmarks.processes.session import cpu_seconds, session_pids
from benchmarks.serving.encoder_inputs import CHANNELS, IMAGE_SIZE
from benchmarks.serving.encoders import write_bundle
from benchmarks.serving.load import Load, closed_loop, require_h2load
from benchmarks.serving.openloop import open_loop
from benchmarks.serving.peers.litserve import litserve
from benchmarks.serving.peers.mlserver import mlserver
from benchmarks.serving.peers.peer import Peer, start
from benchmarks.serving.peers.triton import grpc_message, triton
from benchmarks.serving.plot import plot_serving
from latentserve.v1 import embedding_pb2 as pb
from service.config import available_cpus

FOLDER = Path("build/bench")
DIMS = {"small": 128, "r18": 512}
SCENARIOS = {"1 image x 32 clients": (1, 32), "8 images x 8 clients": (8, 8)}
OFFERED_SHARE = 0.5
OPEN_LOOP = "open loop, 1 image"
OPEN_LOOP_SECONDS = 8.0
SECONDS_PER_MEASUREMENT = 4.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Options:
    """Measures serving beside peers.

    Attributes:
        rounds: number of interleaved rounds; medians are shown.
        peers: measure the other servers too.
        transports: measure both of our transports.
    """

    rounds: int = 3
    peers: bool = True
    transports: bool = True


@dataclass(frozen=True)
class Target:
    """A running server: what to send it and whose CPU to count."""

    peer: Peer
    session: int


def main(options: Options) -> int:
    """Runs everything; returns the exit status."""
    require_h2load()
    FOLDER.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"cpus": available_cpus(), "rounds": options.rounds}
    for name in DIMS:
        results[name] = measure_encoder(name, options)
        show(name, results[name])
    (FOLDER / "serving.json").write_text(json.dumps(results, indent=2) + "\n")
    plot_serving(results, FOLDER / "serving.svg")
    print(f"figures {FOLDER / 'serving.json'}\npicture {FOLDER / 'serving.svg'}")
    return 0


def measure_encoder(name: str, options: Options) -> dict[str, dict[str, Figures]]:
    """Medians by server and scenario."""
    bundles = FOLDER / "bundles" / name
    graph = bundles / name / "1" / "encoder.onnx"
    if not graph.exists():
        write_bundle(name, bundles)
    rng = np.random.default_rng(0)
    images = {rows: rng.integers(0, 256, (rows, IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8) for rows in (1, 8)}
    runs: dict[str, dict[str, list[Figures]]] = {}
    with ExitStack() as stack:
        targets = [stack.enter_context(ours(bundles, images, "http2"))]
        if options.transports:
            targets.append(stack.enter_context(ours(bundles, images, "grpcio")))
        if options.peers and name == "small":
            data = {rows: array.tobytes() for rows, array in images.items()}
            made = [
                triton(name, graph, DIMS[name], available_cpus(), data),
                mlserver(name, graph, available_cpus(), data),
                litserve(name, graph, available_cpus(), data),
            ]
            targets += [stack.enter_context(running(peer)) for peer in made]
        for target in targets:
            check_answers(target, graph, images[8], DIMS[name])
        for number in range(options.rounds):
            print(f"{name}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            one_round(targets, graph, runs)
    return {
        server: {scenario: median(figures) for scenario, figures in scenarios.items()}
        for server, scenarios in runs.items()
    }


def one_round(targets: list[Target], graph: Path, runs: dict[str, dict[str, list[Figures]]]) -> None:
    """Each scenario once on each server, server after server."""
    ceiling = raw_ceiling(graph)
    for scenario, (rows, clients) in SCENARIOS.items():
        runs.setdefault("ONNX Runtime alone", {}).setdefault(scenario, []).append(ceiling)
        for target in targets:
            figures = timed(target, rows, lambda peer, num, r=rows, c=clients: closed(peer, r, c, num), clients)
            runs.setdefault(target.peer.name, {}).setdefault(scenario, []).append(figures)
    first, _ = SCENARIOS
    slowest = sorted(runs[target.peer.name][first][-1]["images_per_second"] for target in targets)
    strong = [runs[target.peer.name][first][-1]["images_per_second"] for target in targets if is_strong(target)]
    rate = OFFERED_SHARE * min(strong or slowest)
    for target in targets:
        if is_strong(target):
            tally = open_loop(target.peer.url, target.peer.body[1], target.peer.headers, rate, OPEN_LOOP_SECONDS)
            if set(tally.codes) - {"0"}:
                raise RuntimeError(f"{target.peer.name}: open loop: {tally.codes} of {tally.sent}")
            figures = {
                "images_per_second": tally.answered_per_second,
                "p50_ms": tally.p50_ms,
                "p99_ms": tally.p99_ms,
                "offered_per_second": rate,
                "sent_late_ms": tally.late_ms,
            }
            runs[target.peer.name].setdefault(OPEN_LOOP, []).append(figures)


def is_strong(target: Target) -> bool:
    """Servers that can bear half of the load of the best."""
    return target.peer.name.startswith(("latentserve (http2)", "Triton"))


def closed(peer: Peer, rows: int, clients: int, num_requests: int) -> Load:
    """A closed loop on a peer."""
    return closed_loop(peer.url, peer.body[rows], peer.headers, clients, num_requests, peer.http1)


def timed(target: Target, rows: int, load: Any, clients: int) -> Figures:
    """Runs a load for about SECONDS_PER_MEASUREMENT and adds the server's CPU."""
    probe = load(target.peer, clients * 10)
    num_requests = max(clients * 10, int(probe.requests_per_second * SECONDS_PER_MEASUREMENT))
    before = cpu_seconds(target.session)
    measured = load(target.peer, num_requests)
    cpu = cpu_seconds(target.session) - before
    if measured.num_failed:
        raise RuntimeError(f"{target.peer.name}: {measured.num_failed} of {num_requests} requests failed")
    return figures_of(measured, rows) | {"cpu_us_per_image": cpu / (num_requests * rows) * 1e6}


def figures_of(load: Load, rows: int) -> Figures:
    """A load's figures, in images."""
    return {"images_per_second": load.requests_per_second * rows, "p50_ms": load.p50_ms, "p99_ms": load.p99_ms}


def median(figures: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: float(np.median([one[name] for one in figures])) for name in figures[0]}


def raw_ceiling(graph: Path) -> Figures:
    """The same graph in a loop, batch 64, nothing around it, in a process of its own."""
    code = f"from benchmarks.serving.__main__ import loop; loop({str(graph)!r}, {available_cpus()})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rate, cpu = map(float, done.stdout.split())
    return {"images_per_second": rate, "cpu_us_per_image": cpu}


def loop(graph: str, threads: int, rows: int = 64) -> None:
    """Prints images a second and CPU microseconds an image."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    batch = np.zeros((rows, IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8)
    session.run(None, {"input": batch})
    started, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < SECONDS_PER_MEASUREMENT:
        session.run(None, {"input": batch})
        count += rows
    print(count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e6)


@contextmanager
def ours(bundles: Path, images: dict[int, Any], transport: str) -> Iterator[Target]:
    """Our own server, as users start it."""
    arguments = ("--transport", transport)
    with ServedProcess(bundles, FOLDER / f"{transport}.log", arguments, own_session=True) as server:
        yield of_server(f"latentserve ({transport})", server, images)


def of_server(name: str, server: ServedProcess, images: dict[int, Any]) -> Target:
    """What to send to a server of ours."""
    body = {
        rows: grpc_message(
            pb.EmbedRequest(
                input=pb.Input(tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=array.shape, data=array.tobytes()))
            ).SerializeToString()
        )
        for rows, array in images.items()
    }
    url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
    return Target(Peer(name, Path(), (), url, body, ("content-type: application/grpc", "te: trailers")), server.pid)


@contextmanager
def running(peer: Peer) -> Iterator[Target]:
    """A peer, ready to answer."""
    process = start(peer, FOLDER / f"{peer.folder.name}.log")
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                closed(peer, 1, 1, 2)
                break
            except (RuntimeError, subprocess.SubprocessError) as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{peer.name} did not start: see {FOLDER}/{peer.folder.name}.log") from error
                time.sleep(1)
        yield Target(peer, process.pid)
    finally:
        for pid in session_pids(process.pid):
            os.kill(pid, 15)
        process.wait(30)


def check_answers(target: Target, graph: Path, images: Any, dim: int) -> None:
    """Raises RuntimeError if a server's embeddings are not ONNX Runtime's."""
    if target.peer.http1:
        return  # LitServe's body is the raw floats and nothing else; it is measured for scale alone
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    expected = session.run(["embedding"], {"input": images})[0]
    host, _, path = target.peer.url.removeprefix("http://").partition("/")
    with grpc.insecure_channel(host) as channel:
        ask: Any = channel.unary_unary("/" + path)
        answer: bytes = ask(target.peer.body[8][5:], timeout=30)
    # Every answer ends with its raw floats, but for a few bytes of fields after them.
    size = expected.nbytes
    for end in range(len(answer), max(len(answer) - 64, size) - 1, -1):
        if np.allclose(np.frombuffer(answer[end - size : end], "<f4").reshape(-1, dim), expected, atol=1e-3):
            return
    raise RuntimeError(f"{target.peer.name}: the embeddings are not those of ONNX Runtime")


def show(name: str, measured: dict[str, dict[str, Figures]]) -> None:
    """Prints a table for an encoder."""
    base = measured["latentserve (http2)"]
    for scenario in (*SCENARIOS, OPEN_LOOP):
        table = Table(title=f"{name}: {scenario}", title_justify="left")
        for column in ("server", "images/s", "ours / theirs", "p50 ms", "p99 ms", "CPU us/image"):
            table.add_column(column, justify="left" if column == "server" else "right")
        for server, scenarios in measured.items():
            if scenario not in scenarios:
                continue
            row = scenarios[scenario]
            ratio = base[scenario]["images_per_second"] / row["images_per_second"]
            table.add_row(
                server,
                f"{row['images_per_second']:.0f}",
                f"{ratio:.2f}",
                *(f"{row[key]:.2f}" if key in row else "" for key in ("p50_ms", "p99_ms")),
                f"{row['cpu_us_per_image']:.0f}" if "cpu_us_per_image" in row else "",
            )
        Console().print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving")))
