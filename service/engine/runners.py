"""How one graph is run on one batch: from host memory on a CPU, from fixed device buffers on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from latentserve.bundle import Graph

Value = Any
"""An array in host memory, or an `ort.OrtValue` on the device; rows first."""


def on_host(value: Value) -> NDArray[Any]:
    """The array, copied from the device if it lies there."""
    if isinstance(value, np.ndarray):
        return value
    array: NDArray[Any] = value.numpy()
    return array if array.flags.owndata else array.copy()  # a buffer in host memory is shown, not copied


class HostRunner:
    """Runs a graph on arrays in host memory."""

    def __init__(self, session: ort.InferenceSession, graph: Graph) -> None:
        self._session = session
        self._names = [spec.name for spec in graph.outputs]

    def run(self, size: int, feed: dict[str, Value], left_out: frozenset[str] = frozenset()) -> dict[str, Value]:
        """Outputs by name, arrays of `size` rows, but for those that are left out."""
        names = [name for name in self._names if name not in left_out]
        return dict(zip(names, self._session.run(names, feed), strict=True))


@dataclass(frozen=True)
class Buffers:
    """Fixed memory for one batch size, bound to a session."""

    binding: ort.IOBinding
    options: ort.RunOptions
    inputs: dict[str, ort.OrtValue]
    outputs: dict[str, ort.OrtValue]


class DeviceRunner:
    """Runs a graph between buffers on the device, which are made once for each batch size.

    What another graph left on the device is read where it lies. Since no address ever changes, the kernels can be
    recorded and replayed (CUDA graphs): one recording for each batch size and choice of inputs that lie on the device.
    What a run outputs is valid until the next run of the same size.

    Args:
        session: of the graph.
        graph: whose tensors to bind.
        device: `cuda`, or `cpu` to test the same path without one.
        cuda_graphs: the session records and replays.
        gpu: number of it.
    """

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, device: str, cuda_graphs: bool = False, gpu: int = 0
    ) -> None:
        self._session = session
        self._graph = graph
        self._device, self._gpu = device, gpu
        self._cuda_graphs = cuda_graphs
        self._buffers: dict[tuple[int, frozenset[str], frozenset[int]], Buffers] = {}

    def run(self, size: int, feed: dict[str, Value], left_out: frozenset[str] = frozenset()) -> dict[str, Value]:
        """Outputs by name, on the device, of `size` rows, but for those that are left out."""
        resident = {name: value for name, value in feed.items() if isinstance(value, ort.OrtValue)}
        key = size, left_out, frozenset(value.data_ptr() for value in resident.values())
        if key not in self._buffers:
            self._buffers[key] = self._bind(size, resident, left_out)
        buffers = self._buffers[key]
        for name, value in feed.items():
            if name not in resident:
                buffers.inputs[name].update_inplace(value)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return dict(buffers.outputs)

    def _bind(self, size: int, resident: dict[str, ort.OrtValue], left_out: frozenset[str]) -> Buffers:
        binding = self._session.io_binding()
        inputs = {spec.name: resident.get(spec.name) or self._memory(size, spec) for spec in self._graph.inputs}
        made = [spec for spec in self._graph.outputs if spec.name not in left_out]
        outputs = {spec.name: self._memory(size, spec) for spec in made}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()
        if self._cuda_graphs:
            options.add_run_config_entry("gpu_graph_id", str(len(self._buffers) + 1))
        return Buffers(binding, options, inputs, outputs)

    def _memory(self, size: int, spec: Any) -> ort.OrtValue:
        shape, dtype = [size, *spec.shape], np.dtype(spec.dtype)
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device, self._gpu)
