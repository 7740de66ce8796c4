"""The engine: rows to tensors through a bundle's graphs on ONNX Runtime.

Graphs are joined by tensor names. What a piece wants decides which graphs run for it: the encoder once per row, the
decoder and the scorer only for the rows that asked. On CUDA, where the first run of a shape is slow, batches are padded
to powers of two, all of which are run once before the model is ready; a CPU runs any size at once, so padding would be
work for nothing (docs/adr/0006-padding.md).
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from latentserve.bundle import Graph, Manifest
from latentserve.errors import BundleError
from latentserve.inputs import INPUT, TensorSpec
from service.batching import Piece
from service.waiting import Tensors

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
Device = Literal["auto", "cpu", "cuda"]


class DeviceError(RuntimeError):
    """The device that was required is not there."""


class Engine:
    """Runs the graphs of one bundle. Not thread-safe: one batch at a time.

    Args:
        folder: of the bundle.
        manifest: of the bundle, already proven.
        max_batch_rows: largest batch.
        device: `cpu`; `cuda`, or fail; `auto`: CUDA if it really works, else the CPU.
        intra_op_threads: threads of one ONNX Runtime operator on the CPU.
        padded: pad batches to powers of two; None: on CUDA alone.

    Raises:
        BundleError: ONNX Runtime cannot load a graph, or the graph is not what the manifest says.
        DeviceError: `cuda` was required and does not work.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        max_batch_rows: int,
        device: Device,
        intra_op_threads: int,
        padded: bool | None = None,
    ) -> None:
        self.manifest = manifest
        self.execution_provider = choose_provider(device, folder / manifest.graphs["encoder"].file)
        self._sessions = {
            graph.file: _session(folder / graph.file, self.execution_provider, intra_op_threads)
            for graph in manifest.graphs.values()
        }
        for graph in manifest.graphs.values():
            _check_graph(graph, self._sessions[graph.file])
        if padded is None:
            padded = self.execution_provider == CUDA
        self.buckets = bucket_sizes(max_batch_rows) if padded else list(range(1, max_batch_rows + 1))
        self.plan = cache(self._plan)
        self.pad_seconds = 0.0

    def _plan(self, given: str, wants: frozenset[str]) -> tuple[Graph, ...]:
        """The graphs that lead from the given tensor to the wanted ones, in the order they run."""
        made_by = {spec.name: graph for graph in self.manifest.graphs.values() for spec in graph.outputs}
        order: list[Graph] = []

        def need(tensor: str) -> None:
            if tensor == given:
                return
            if tensor not in made_by:
                raise BundleError(f"{self.manifest.name}: no graph gives {tensor!r} from {given!r}")
            graph = made_by[tensor]
            if graph not in order:
                for spec in graph.inputs:
                    need(spec.name)
                order.append(graph)

        for tensor in sorted(wants):
            need(tensor)
        return tuple(order)

    def run(self, given: str, pieces: Sequence[Piece]) -> list[Tensors]:
        """Runs a batch of pieces whose rows are the tensor `given` (`input` or `latent`)."""
        self.pad_seconds = 0.0
        plans = [self.plan(given, piece.wants) for piece in pieces]
        tensors: list[Tensors] = [{given: piece.rows} for piece in pieces]
        for graph in self.manifest.graphs.values():
            members = [i for i, plan in enumerate(plans) if graph in plan]
            if members:
                self._run_graph(graph, [tensors[i] for i in members])
        return [{name: made[name] for name in piece.wants} for piece, made in zip(pieces, tensors, strict=True)]

    def _run_graph(self, graph: Graph, members: list[Tensors]) -> None:
        """Runs one graph for the members, whose dicts it adds the outputs to."""
        counts = [len(next(iter(made.values()))) for made in members]
        num_rows = sum(counts)
        bucket = next(size for size in self.buckets if size >= num_rows)
        started = time.perf_counter()
        feed = {spec.name: _padded(spec, [made[spec.name] for made in members], bucket) for spec in graph.inputs}
        self.pad_seconds += time.perf_counter() - started
        names = [spec.name for spec in graph.outputs]
        outputs = self._sessions[graph.file].run(names, feed)
        start = 0
        for made, count in zip(members, counts, strict=True):
            for name, output in zip(names, outputs, strict=True):
                made[name] = output[start : start + count]
            start += count

    def padding(self, num_rows: int) -> int:
        """Rows that are computed for nothing in a batch of so many."""
        return next(size for size in self.buckets if size >= num_rows) - num_rows

    def warm_up(self) -> None:
        """Runs every graph at every padded size, or where nothing is padded at powers of two."""
        everything = frozenset(self.manifest.outputs)
        for size in bucket_sizes(self.buckets[-1]):
            self.run(INPUT, [Piece(np.zeros((size, *self.manifest.input.spec.shape), np.uint8), everything)])

    def check_golden(self, golden: dict[str, NDArray[Any]]) -> None:
        """Proves that served numbers equal trained numbers, on this machine and this provider.

        Args:
            golden: real rows under `input`, and what the trained model gave for them.

        Raises:
            BundleError: a tensor is further off than the manifest allows.
        """
        rows = golden[INPUT]
        names = frozenset(golden) - {INPUT}
        (got,) = self.run(INPUT, [Piece(rows[: self.buckets[-1]], names)])
        tolerances = {parity.tensor: parity.tolerance for parity in self.manifest.parity}
        for name in sorted(names):
            expected = golden[name][: len(got[name])]
            error = float(np.abs(got[name] - expected).max())
            tolerance = tolerances.get(name, 1e-3)
            if not error <= tolerance:  # also if it is NaN
                raise BundleError(
                    f"{self.manifest.name}: golden rows: {name} is {error:.3g} off the trained model on"
                    f" {self.execution_provider}, expected at most {tolerance:.3g}"
                )


def bucket_sizes(max_batch_rows: int) -> list[int]:
    """The padded batch sizes: powers of two, and the maximum."""
    sizes = [1 << power for power in range(max_batch_rows.bit_length()) if 1 << power < max_batch_rows]
    return [*sizes, max_batch_rows]


def choose_provider(device: Device, graph: Path) -> str:
    """The execution provider that really runs, found by trying.

    ONNX Runtime falls back to the CPU with no more than a log line; only a session that lists CUDA alone and
    forbids the fallback tells the truth.

    Raises:
        DeviceError: `cuda` was required and does not work.
    """
    if device == "cpu":
        return CPU
    why = _why_no_cuda(graph)
    if why is None:
        return CUDA
    if device == "cuda":
        raise DeviceError(f"device: got no working CUDA ({why}), expected one, because device is 'cuda'")
    log.info("no CUDA here (%s): running on the CPU", why)
    return CPU


@cache
def _why_no_cuda(graph: Path) -> str | None:
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider"
    try:
        ctypes.CDLL("libcuda.so.1")  # before preloading gigabytes of libraries that could not be used
    except OSError:
        return "no NVIDIA driver"
    try:
        ort.preload_dlls()
        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        ort.InferenceSession(graph, options, providers=[CUDA])
    except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
        return str(error).splitlines()[0]
    return None


def _session(path: Path, provider: str, intra_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # TF32 would put ten bits of error into numbers that were trained and calibrated in float32.
    providers: list[Any] = [(CUDA, {"use_tf32": "0"})] if provider == CUDA else [CPU]
    if provider == CUDA:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
        raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _check_graph(graph: Graph, session: ort.InferenceSession) -> None:
    for said, found in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
        expected = {spec.name: list(spec.shape) for spec in said}
        got = {tensor.name: list(tensor.shape[1:]) for tensor in found}
        if got != expected:
            raise BundleError(f"{graph.file}: got tensors {got}, the manifest says {expected}")


def _padded(spec: TensorSpec, arrays: list[NDArray[Any]], bucket: int) -> NDArray[Any]:
    """One batch from several arrays, each row copied once, zeros after the last."""
    if len(arrays) == 1 and len(arrays[0]) == bucket:
        return np.ascontiguousarray(arrays[0])
    batch = np.empty((bucket, *spec.shape), spec.dtype)
    start = 0
    for array in arrays:
        batch[start : start + len(array)] = array
        start += len(array)
    batch[start:] = 0
    return batch
