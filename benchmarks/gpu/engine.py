"""Stage `engine`: images a second against batch size, ours beside ONNX Runtime alone, and what stays of the memory.

For ResNet-18 at 32 pixels, ResNet-50 and ViT-S/16 at 224, in 32 and 16 bits. Columns take turns, round after round, so
that a clock that falls slows all of them:

    alone           ONNX Runtime on device buffers that are filled already: nothing but the kernels
    alone_copying   the same, rows copied to the device and embeddings back: what any server has to do
    engine          `service.engine.engine.Engine`, between fixed buffers
    two_engines     two engines in a thread each, as `--instances 2` has them; images a second of both
    cuda_graphs     the engine with recorded kernels
    tensorrt        the engine on TensorRT, where it loads
    searched, nhwc  `alone` with cuDNN's timed search, and with convolutions in channels-last order (batch 64 alone)
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.cells import Cells, Figures, one_line
from benchmarks.gpu.check import Check
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.prepared import PRECISIONS, encoder_bundle, encoders_of
from benchmarks.serving.encoder_inputs import images
from latentserve.bundle import Precision
from latentserve.devices import CUDA, TENSORRT
from latentserve.inputs import INPUT
from service.engine.engine import Engine, bucket_sizes
from service.engine.providers import why_not
from service.scheduling.queue import Piece

BATCHES, REHEARSED_BATCHES = (64, 256, 1, 16, 4), (4, 1)  # the most telling first
SECONDS, ROUNDS = 0.15, 3
LEAST_OF_ALONE, LARGE_ENOUGH = 0.97, 64
MOST_GROWN_MIB = 64.0
"""That the same batch sizes may add when they are run again: what other processes and the driver move."""
COMPARED = "alone", "alone_copying", "engine"
"""Columns without which a cell says nothing."""
TWO, EACH = "two_engines", 4
"""Two engines run so many batches each, at once, in a step."""
SETTINGS = {"searched": {"cudnn_conv_algo_search": "EXHAUSTIVE"}, "nhwc": {"prefer_nhwc": "1"}}

Step = Callable[[], Any]


def run(machine: Machine, folder: Path, cells: Cells) -> list[Check]:
    """A cell for each encoder, precision and batch size, and one for the memory of each."""
    batches = machine.choose(BATCHES, REHEARSED_BATCHES)
    checks = []
    for precision in reversed(PRECISIONS):
        for name in encoders_of(machine):
            label = f"{name} {precision}"
            opened = Opened(machine, folder, name, precision, max(batches))
            for size in batches:
                figures = cells.measure(f"{label} batch {size}", partial(opened.rates, size))
                if size >= LARGE_ENOUGH and figures is not None:
                    ratio = figures["engine"] / figures["alone_copying"]
                    checks.append(Check.at_least(f"{label} batch {size}: engine / alone", ratio, LEAST_OF_ALONE))
            del opened
            found = cells.measure(f"{label} memory", partial(memory, machine, folder, name, precision))
            for order in ("rising", "falling"):
                grown = found[f"{order}_again_mib"] - found[f"{order}_mib"] if found else None
                checks.append(Check.at_most(f"{label}: MiB more for the same sizes, {order}", grown, MOST_GROWN_MIB))
    return [] if machine.rehearsal else checks


class Opened:
    """One encoder's sessions, loaded when they are first asked for."""

    def __init__(self, machine: Machine, folder: Path, name: str, precision: Precision, max_rows: int) -> None:
        self._machine, self._name, self._max_rows = machine, name, max_rows
        self._where = folder, name, precision
        self._steps: dict[str, Callable[[Any], Step]] = {}

    def rates(self, size: int) -> Figures:
        """Images a second of every column at a batch size."""
        rows = images(self._name, size)
        found: Figures = {}
        steps: dict[str, Step] = {}
        for column, ready in self._columns(size).items():
            try:
                steps[column] = ready(rows)
                steps[column]()
            except Exception as error:  # a column that a device cannot run is told beside those that it can
                if column in COMPARED:
                    raise
                steps.pop(column, None)
                found[f"{column}_error"] = one_line(error)
        taken = {column: size * 2 * EACH if column == TWO else size for column in steps}
        rounds = [{column: rate(step, taken[column]) for column, step in steps.items()} for _ in range(ROUNDS)]
        return {column: float(np.median([one[column] for one in rounds])) for column in steps} | found

    def _columns(self, size: int) -> dict[str, Callable[[Any], Step]]:
        if not self._steps:
            self._open()
        of_settings = set(SETTINGS)
        return {name: ready for name, ready in self._steps.items() if size == 64 or name not in of_settings}

    def _open(self) -> None:
        machine = self._machine
        made = encoder_bundle(*self._where)
        session = cache(partial(_session, machine, made / "encoder.onnx"))  # opened once for all batch sizes
        self._steps = {
            "alone": partial(_alone, machine, session, "", False),
            "alone_copying": partial(_alone, machine, session, "", True),
            "engine": _kept(partial(machine.engine, made, self._max_rows)),
            TWO: _two(partial(machine.engine, made, self._max_rows)),
        }
        if machine.rehearsal:
            return
        self._steps["cuda_graphs"] = _kept(partial(machine.engine, made, self._max_rows, cuda_graphs=True))
        if why_not(TENSORRT) is None:
            self._steps["tensorrt"] = _kept(partial(machine.engine, made, self._max_rows, device="tensorrt"))
        for name in SETTINGS:
            self._steps[name] = partial(_alone, machine, session, name, False)


def _kept(open_it: Callable[[], Engine]) -> Callable[[Any], Step]:
    """A step of an engine that is opened once for all batch sizes."""
    engines: list[Engine] = []

    def ready(rows: Any) -> Step:
        if not engines:
            engines.append(open_it())
        pieces = [Piece(rows, frozenset({"embedding"}))]
        return lambda: engines[0].run(INPUT, pieces)

    return ready


def _two(open_it: Callable[[], Engine]) -> Callable[[Any], Step]:
    """A step of two engines, each in a thread of its own, opened once for all batch sizes."""
    threads = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
    engines: list[Engine] = []

    def ready(rows: Any) -> Step:
        if not engines:
            engines.extend(thread.submit(open_it).result() for thread in threads)
        pieces = [Piece(rows, frozenset({"embedding"}))]

        def batches(engine: Engine) -> None:
            for _ in range(EACH):
                engine.run(INPUT, pieces)

        def step() -> None:
            for done in [thread.submit(batches, engine) for thread, engine in zip(threads, engines, strict=True)]:
                done.result()

        return step

    return ready


def _session(machine: Machine, file: Path, settings: str) -> ort.InferenceSession:
    """Under the service's options, or those with `SETTINGS` by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    providers = machine.session_providers
    if settings:
        providers = [(CUDA, providers[0][1] | SETTINGS[settings])]
    return ort.InferenceSession(file, options, providers=providers, enable_fallback=int(machine.rehearsal))


def _alone(
    machine: Machine, opened: Callable[[str], ort.InferenceSession], settings: str, copying: bool, rows: Any
) -> Step:
    """One run of ONNX Runtime on buffers of its device."""
    session, device = opened(settings), machine.device
    given = ort.OrtValue.ortvalue_from_numpy(rows, device, 0)
    output = session.get_outputs()[0]
    made = ort.OrtValue.ortvalue_from_shape_and_type([len(rows), *output.shape[1:]], np.float32, device, 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT, given)
    binding.bind_ortvalue_output(output.name, made)

    def step() -> Any:
        if copying:
            given.update_inplace(rows)
        session.run_with_iobinding(binding)
        return made.numpy() if copying else None

    return step


def rate(step: Step, rows: int) -> float:
    """Rows a second of a step that takes so many."""
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS:
        step()
        count += rows
    return count / seconds


def memory(machine: Machine, folder: Path, name: str, precision: Precision) -> Figures:
    """MiB of an engine after all batch sizes, from small to large and from large to small, and after it is unloaded.

    Whatever the order, the arena may grow no further once the largest has been run: `again` is after all sizes anew.
    """
    made = encoder_bundle(folder, name, precision)
    largest = machine.choose(max(BATCHES), max(REHEARSED_BATCHES))
    gc.collect()  # an engine is part of a cycle
    found: Figures = {"before_mib": machine.memory_mib()}
    for order, sizes in (("rising", bucket_sizes(largest)), ("falling", bucket_sizes(largest)[::-1])):
        engine = machine.engine(made, largest)
        for label in (order, f"{order}_again"):
            for size in sizes:
                engine.run(INPUT, [Piece(images(name, size), frozenset({"embedding"}))])
            found[f"{label}_mib"] = machine.memory_mib()
        del engine
        gc.collect()
    return found | {"after_mib": machine.memory_mib()}
