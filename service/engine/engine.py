"""The engine: rows to tensors through a bundle's graphs on ONNX Runtime.

Graphs are joined by tensor names. What a piece wants decides which graphs run for it: the encoder once per row, the
decoder and the scorer only for the rows that asked. On CUDA, where the first run of a shape is slow, batches are padded
to powers of two, all of which are run once before the model is ready; a CPU runs any size at once, so padding would be
work for nothing (docs/adr/0006-padding.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.bundle import Graph, Manifest, load_calibration
from latentserve.conformal import worst_move
from latentserve.devices import CPU
from latentserve.errors import BundleError
from latentserve.inputs import INPUT, ON_REQUEST, TensorSpec
from service.engine.providers import DeviceConfig, open_sessions
from service.engine.runners import DeviceRunner, HostRunner, Value, on_host
from service.scheduling.queue import Piece, Tensors


@dataclass
class Made:
    """One tensor for some pieces of a batch, their rows one after another, padded at the end.

    Attributes:
        members: numbers of the pieces, in order.
        counts: rows of each.
        value: on the host or on the device.
    """

    members: list[int]
    counts: list[int]
    value: Value

    def rows(self, member: int) -> NDArray[Any]:
        """The rows of one piece, on the host."""
        self.value = on_host(self.value)
        at = self.members.index(member)
        start = sum(self.counts[:at])
        rows: NDArray[Any] = self.value[start : start + self.counts[at]]
        return rows


class Engine:
    """Runs the graphs of one bundle. Not thread-safe: one batch at a time.

    But batches of one piece on a CPU, where nothing is padded, share no memory: threads may run these at once.

    Args:
        folder: of the bundle.
        manifest: of the bundle, already verified.
        config: the device and the largest batch.
        padded: pad batches to powers of two; None: on a GPU alone.
        bound: run between fixed buffers on the device; None: on a GPU alone.

    Raises:
        BundleError: ONNX Runtime cannot load a graph, or the graph is not what the manifest says.
        DeviceError: the device that was required does not work.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: DeviceConfig,
        padded: bool | None = None,
        bound: bool | None = None,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        sessions = open_sessions(folder, manifest.graphs.values(), config)
        self.execution_provider = sessions.execution_provider
        on_gpu = self.execution_provider != CPU
        self._runners: dict[str, HostRunner | DeviceRunner] = {}
        for graph in manifest.graphs.values():
            session = sessions.of[graph.file]
            if bound or (bound is None and on_gpu):
                device, recorded = ("cuda", config.cuda_graphs) if on_gpu else ("cpu", False)
                gpu = config.gpu if on_gpu else 0
                self._runners[graph.file] = DeviceRunner(session, graph, device, recorded, gpu)
            else:
                self._runners[graph.file] = HostRunner(session, graph)
        max_rows = config.max_batch_rows
        is_padded = on_gpu if padded is None else padded
        self.buckets = bucket_sizes(max_rows) if is_padded else list(range(1, max_rows + 1))
        specs = [manifest.input.spec, *(spec for graph in manifest.graphs.values() for spec in graph.inputs)]
        self._batch_of = {spec.name: np.empty((max_rows, *spec.shape), spec.dtype) for spec in specs}
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
                raise BundleError(f"{self.manifest.name}: no graph outputs {tensor!r} from {given!r}")
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
        made: dict[str, Made] = {}

        def rows(tensor: str, member: int) -> NDArray[Any]:
            return pieces[member].rows if tensor == given else made[tensor].rows(member)

        for graph in self.manifest.graphs.values():
            members = [i for i, plan in enumerate(plans) if graph in plan]
            if not members:
                continue
            counts = [len(pieces[i].rows) for i in members]
            bucket = next(size for size in self.buckets if size >= sum(counts))
            started = time.perf_counter()
            feed: dict[str, Value] = {}
            for spec in graph.inputs:
                before = made.get(spec.name)
                if before and before.members == members:
                    feed[spec.name] = before.value  # all rows of an earlier graph: as they lie, padding and all
                else:
                    feed[spec.name] = self._batch(spec, [rows(spec.name, i) for i in members], bucket)
            self.pad_seconds += time.perf_counter() - started
            read = {spec.name for i in members for later in plans[i] for spec in later.inputs}
            left_out = frozenset(ON_REQUEST).difference(read, *(pieces[i].wants for i in members))
            outputs = self._runners[graph.file].run(bucket, feed, left_out)
            made |= {name: Made(members, counts, value) for name, value in outputs.items()}
        return [{name: rows(name, i) for name in piece.wants} for i, piece in enumerate(pieces)]

    def _batch(self, spec: TensorSpec, arrays: list[NDArray[Any]], bucket: int) -> NDArray[Any]:
        """One batch from several arrays in memory kept for it, each row copied once, zeros after the last."""
        if len(arrays) == 1 and len(arrays[0]) == bucket:
            return np.ascontiguousarray(arrays[0])
        batch = self._batch_of[spec.name][:bucket]
        start = 0
        for array in arrays:
            batch[start : start + len(array)] = array
            start += len(array)
        batch[start:] = 0
        return batch

    def padding(self, num_rows: int) -> int:
        """Rows that are computed for nothing in a batch of so many."""
        return next(size for size in self.buckets if size >= num_rows) - num_rows

    def warm_up(self) -> None:
        """Runs every graph at every padded size, or where nothing is padded at powers of two.

        The largest first: what a device's memory gave for it then holds every smaller one, and grows no more.
        """
        everything, spec = frozenset(self.manifest.outputs) - frozenset(ON_REQUEST), self.manifest.input.spec
        for size in reversed(bucket_sizes(self.buckets[-1])):
            rows = np.zeros((size, *spec.shape), spec.dtype)
            for wants in dict.fromkeys((everything, frozenset({"embedding"}))):  # scores may need what it leaves out
                self.run(INPUT, [Piece(rows, wants)])

    def check_golden(self, golden: dict[str, NDArray[Any]]) -> None:
        """Verifies that served numbers equal trained numbers, on this machine and this provider.

        Args:
            golden: real rows under `input`, and what the trained model output for them.

        Raises:
            BundleError: a tensor is further off than the manifest allows; scores, if a p-value is, too.
        """
        rows = golden[INPUT]
        names = frozenset(golden) - {INPUT}
        (got,) = self.run(INPUT, [Piece(rows[: self.buckets[-1]], names)])
        tolerances = {parity.tensor: parity.tolerance for parity in self.manifest.parity}
        for name in sorted(names):
            expected = golden[name][: len(got[name])]
            error = float(np.abs(got[name] - expected).max())
            tolerance = tolerances.get(name, 1e-3)
            if error <= tolerance:
                continue
            what = f"expected at most {tolerance:.3g}"
            if name == "scores" and np.isfinite(error):  # where they are steep export compared p-values, too
                move = worst_move(got[name], expected, load_calibration(self.folder, self.manifest))
                if move.holds:
                    continue
                what += f", and {move}"
            raise BundleError(
                f"{self.manifest.name}: golden rows: {name} is {error:.3g} off the trained model on"
                f" {self.execution_provider}, {what}"
            )


def bucket_sizes(max_batch_rows: int) -> list[int]:
    """The padded batch sizes: powers of two, and the maximum."""
    sizes = [1 << power for power in range(max_batch_rows.bit_length()) if 1 << power < max_batch_rows]
    return [*sizes, max_batch_rows]
