"""Where the time goes in a closed loop: whose CPU, how long engines run, how many rows a batch has.

    python -m benchmarks.serving.trace                         8 images x 8 clients beside Triton: some three minutes
    python -m benchmarks.serving.trace --rows 1 --clients 32   other requests

Ours is served three times, interleaved: as it is, with batches of half of what is under way (which would overlap with
the other half's requests and answers), and with two engines of a thread each. ONNX Runtime alone runs batches of 64.
A server's threads but the one of the event loop are the engine's and ONNX Runtime's.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.processes.served import ServedProcess
from benchmarks.processes.session import TICK, cpu_seconds
from benchmarks.serving.__main__ import (
    DIMS,
    FOLDER,
    Figures,
    Target,
    closed,
    median,
    of_server,
    raw_ceiling,
    running,
    timed,
)
from benchmarks.serving.encoder_inputs import images
from benchmarks.serving.encoders import write_bundle
from benchmarks.serving.load import require_h2load
from benchmarks.serving.peers.triton import triton
from service.config import available_cpus

ENCODER = "small"
MOST_ROWS = 4096
"""Of a batch that a server may be told."""
SAMPLE = re.compile(r"^(latentserve_[a-z_]+)\{[^}]*\} (\S+)", re.MULTILINE)
TOTALS = ("latentserve_instance_busy_seconds_total", "latentserve_batch_rows_sum", "latentserve_batch_rows_count")
COLUMNS = ("images_per_second", "p99_ms", "loop_us", "others_us", "busy", "rows_a_batch", "cores")
HEADS = ("images/s", "p99 ms", "event loop us/image", "others us/image", "engine runs", "rows a batch", "cores busy")


@dataclass(frozen=True)
class Options:
    """Traces a closed loop.

    Attributes:
        rows: of a request.
        clients: each of whom sends the next request when the last is answered.
        rounds: interleaved; medians are shown.
        peers: Triton, too.
    """

    rows: int = 8
    clients: int = 8
    rounds: int = 3
    peers: bool = True


@dataclass(frozen=True)
class Traced:
    """A server, and where its metrics are; empty: it is not ours."""

    target: Target
    metrics_url: str = ""


def main(options: Options) -> int:
    """Prints the table; returns the exit status."""
    require_h2load()
    bundles = FOLDER / "bundles" / ENCODER
    graph = bundles / ENCODER / "1" / "encoder.onnx"
    if not graph.exists():
        write_bundle(ENCODER, bundles)
    half = min(max(1, options.rows * options.clients // 2), MOST_ROWS)
    given = {rows: images(ENCODER, rows) for rows in {1, options.rows}}
    variants = {"latentserve": (), f"batches of {half}": ("--max-batch-rows", str(half))}
    if available_cpus() > 1:
        variants["two engines"] = ("--instances", "2")
    runs: dict[str, list[Figures]] = {}
    alone = []
    with ExitStack() as stack:
        traced = {
            name: stack.enter_context(ours(name, bundles, given, arguments)) for name, arguments in variants.items()
        }
        if options.peers:
            data = {rows: array.tobytes() for rows, array in given.items()}
            peer = triton(ENCODER, graph, DIMS[ENCODER], available_cpus(), data)
            traced["Triton (Python backend)"] = Traced(stack.enter_context(running(peer)))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            alone.append(raw_ceiling(graph))
            for name, one in traced.items():
                runs.setdefault(name, []).append(trace(one, options))
    print(table({name: median(of_one) for name, of_one in runs.items()}))
    print(
        "\nONNX Runtime alone: {images_per_second:.0f} images/s, {cpu_us_per_image:.0f} us/image".format(
            **median(alone)
        )
    )
    return 0


@contextmanager
def ours(name: str, bundles: Path, given: dict[int, Any], arguments: tuple[str, ...]) -> Iterator[Traced]:
    """Our server under some settings."""
    log = FOLDER / f"trace-{name.replace(' ', '-')}.log"
    with ServedProcess(bundles, log, arguments, own_session=True) as server:
        yield Traced(of_server(name, server, given), server.metrics_url)


def trace(one: Traced, options: Options) -> Figures:
    """One closed loop, and what it took."""
    before = seen(one)
    probe = timed(
        one.target, options.rows, lambda peer, num: closed(peer, options.rows, options.clients, num), options.clients
    )
    spent = {name: value - before[name] for name, value in seen(one).items()}
    figures = {"images_per_second": probe["images_per_second"], "p99_ms": probe["p99_ms"]}
    figures["cores"] = figures["images_per_second"] * probe["cpu_us_per_image"] / 1e6
    if one.metrics_url:
        busy, rows, batches = (spent[name] for name in TOTALS)
        figures |= {"busy": busy / spent["seconds"], "rows_a_batch": rows / batches}
        figures["loop_us"] = spent["loop"] / rows * 1e6
        figures["others_us"] = (spent["cpu"] - spent["loop"]) / rows * 1e6
    else:
        figures["others_us"] = probe["cpu_us_per_image"]
    return figures


def seen(one: Traced) -> dict[str, float]:
    """Seconds of CPU, of all and of the event loop; totals of the metrics; the clock."""
    pid, found = one.target.session, {"seconds": os.times().elapsed}
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    found["cpu"] = cpu_seconds(pid)
    found["loop"] = (int(fields[11]) + int(fields[12])) / TICK
    if one.metrics_url:
        with urllib.request.urlopen(one.metrics_url) as answer:
            text = answer.read().decode()
        samples = [(name, float(value)) for name, value in SAMPLE.findall(text)]
        found |= {name: sum(value for of, value in samples if of == name) for name in TOTALS}
    return found


def table(medians: dict[str, Figures]) -> str:
    """As Markdown."""
    lines = [f"| server | {' | '.join(HEADS)} |", "| --- |" + " ---: |" * len(HEADS)]
    for name, figures in medians.items():
        cells = [f"{figures[column]:{_format(column)}}" if column in figures else "" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format(column: str) -> str:
    return {"busy": ".0%", "cores": ".2f", "rows_a_batch": ".1f", "p99_ms": ".1f"}.get(column, ".0f")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.serving.trace")))
