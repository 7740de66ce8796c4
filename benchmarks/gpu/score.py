"""Stage `score`: what a score costs beside its embedding through the server, and a new version under load."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import Cells, Figures
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.prepared import Small, fresh_rows, models_of
from benchmarks.gpu.serve import HEADERS, framed, sizes_of
from benchmarks.processes.served import ServedProcess
from benchmarks.serving.closedloop import closed_loop
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

METHODS = "vae", "simclr", "bigbigan"
BATCHES, REHEARSED_BATCHES = (64, 1), (8,)
RELOAD_SECONDS = 60


def run(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """A cell for each method, and the reload."""
    chosen = [one for one in models_of(machine) if one.method in METHODS]
    for small in chosen:
        cells.measure(f"{small.method} float32", partial(costs, machine, folder, small))
    found = cells.measure("reload under load", lambda: reload(machine, folder, chosen[0]))
    if machine.rehearsal or found is None:
        return []
    return [Check.at_most("reload under load: calls failed", found["failed"], 0)]


def costs(machine: Machine, folder: Path, small: Small) -> Figures:
    """Images a second of Embed, Score and Analyze with everything in it."""
    sizes = sizes_of(machine)
    found: Figures = {}
    repository = folder / "methods" / f"{small.method}-float32"
    with server(machine, _alone(folder, repository), folder / f"score-{small.method}.log") as process:
        for rows in machine.choose(BATCHES, REHEARSED_BATCHES):
            rates = {}
            for call, request in requests(small, fresh_rows(small.shape, rows)).items():
                url = f"http://{process.target}/latentserve.v1.EmbeddingService/{call}"
                clients = min(sizes.most_clients, 64)
                tally = closed_loop(url, request, HEADERS, clients, sizes.seconds, min(sizes.processes, clients))
                if set(tally.codes) != {"0"}:
                    raise RuntimeError(f"{call}: answers by status: {tally.codes}, expected 0 alone")
                rates[call] = tally.answered_per_second * rows
            found |= {f"{call} {rows}".lower(): value for call, value in rates.items()}
            found[f"embed / score {rows}"] = rates["Embed"] / rates["Score"]
    return found


def requests(small: Small, rows: Any) -> dict[str, bytes]:
    """The same rows, scored in three ways."""
    given = pb.Input(tensor=to_tensor(rows))
    outputs = [pb.OUTPUT_EMBEDDING, pb.OUTPUT_SCORE]
    if small.method in ("vae", "bigbigan"):
        outputs += [pb.OUTPUT_LATENT, pb.OUTPUT_RECONSTRUCTION]
    return {
        "Embed": framed(pb.EmbedRequest(input=given)),
        "Score": framed(pb.ScoreRequest(input=given)),
        "Analyze": framed(pb.AnalyzeRequest(input=given, outputs=outputs)),
    }


def server(machine: Machine, repository: Path, log: Path) -> ServedProcess:
    """On the device, in a session of its own."""
    return ServedProcess(repository, log, ("--device", machine.device), own_session=True)


def _alone(folder: Path, model: Path) -> Path:
    """A repository with one model in it, a copy."""
    repository = folder / "served" / model.name
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(model, repository / model.name)
    return repository


def reload(machine: Machine, folder: Path, small: Small) -> Figures:
    """Version 2 is put beside version 1 and SIGHUP sent, while clients score without a pause."""
    repository = _alone(folder, folder / "methods" / f"{small.method}-float32")
    (model,) = repository.iterdir()
    request = requests(small, fresh_rows(small.shape, 8))["Score"]
    seconds = machine.choose(10.0, 2.0)
    with server(machine, repository, folder / "reload.log") as process, ThreadPoolExecutor(1) as pool:
        url = f"http://{process.target}/latentserve.v1.EmbeddingService/Score"
        calm = closed_loop(url, request, HEADERS, 8, seconds / 4)
        under_load = pool.submit(closed_loop, url, request, HEADERS, 8, seconds)
        time.sleep(seconds / 4)
        _publish(model, 2)
        started = time.monotonic()
        os.kill(process.pid, signal.SIGHUP)
        while not any('version="2"' in name for name in process.metrics()):
            if time.monotonic() - started > RELOAD_SECONDS:
                raise RuntimeError(f"version 2 does not answer after {RELOAD_SECONDS} s: see {folder / 'reload.log'}")
            time.sleep(0.02)
        took = time.monotonic() - started
        tally = under_load.result()
    return {
        "seconds_to_answer": took,
        "failed": sum(count for code, count in tally.codes.items() if code != "0"),
        "answered": tally.codes.get("0", 0),
        "p99_ms_calm": calm.p99_ms,
        "p99_ms_with_reload": tally.p99_ms,
    }


def _publish(model: Path, version: int) -> None:
    """A copy of version 1 as another version, renamed when it is whole."""
    beside, whole = model / f".{version}.tmp", model / str(version)
    shutil.copytree(model / "1", beside)
    manifest = replace(records.read(Manifest, beside / bundle.MANIFEST), version=version)
    records.write(manifest, beside / bundle.MANIFEST)
    beside.rename(whole)
