"""The ONNX graphs of a bundle, and how to run them.

    encoder: input -> embedding, latent, latent_scale, patches, codes, nll      decoder: latent -> reconstruction
    scorer: input, reconstruction, latent, latent_scale, patches, nll -> scores, anomaly_map

Shape legend: B rows, H height, W width, C channels, D embedding, L latent, K detectors.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.tracing import sparing
from latentserve.bundle import Graph
from latentserve.cpus import available_cpus, cpu_set
from latentserve.devices import CPU, CUDA, CUDA_OPTIONS
from latentserve.inputs import INPUT, ON_REQUEST, TensorSpec
from training.data.lazy import batch_rows, parts_of
from training.data.rows import Values
from training.methods.encoding import Decoder, Encoder
from training.preprocessing import floats_from_rows

OPSET = 20
EXAMPLE_ROWS = 2

Device = Literal["cpu", "cuda"]
PROVIDERS: dict[Device, str] = {"cpu": CPU, "cuda": CUDA}
Tensors = dict[str, NDArray[np.float32]]
"""Outputs of graphs, by tensor name."""


class ExportError(RuntimeError):
    """No bundle was written. The message says why."""


@runtime_checkable
class WritesItself(Protocol):
    """A model that torch cannot trace, and that has a graph of its own: an ONNX file."""

    def write_graph(self, path: Path, /) -> Graph:
        """Writes `input` -> what `encode` returns, by its names, to one file with all of its weights."""
        ...


class EncoderGraph(nn.Module):
    """input -> embedding, and where the model has them latent, latent_scale, patches, codes and nll."""

    def __init__(self, model: Encoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows in as clients send them, so that the service needs no preprocessing of its own."""
        encoding = self.model.encode(floats_from_rows(rows))
        return tuple(tensor for tensor in encoding if tensor is not None)


class DecoderGraph(nn.Module):
    """latent -> reconstruction, float [B, H, W, C], 0 to 1."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, z_BL: Tensor) -> Tensor:
        """Channels last, as the input is."""
        return self.model.decode(z_BL).permute(0, 2, 3, 1).contiguous()


def encoder_outputs(model: Encoder, example: Tensor) -> list[str]:
    """Names of the tensors that the model's encoder returns."""
    with torch.no_grad():
        encoding = model.encode(floats_from_rows(example))
    return [name for name, tensor in encoding._asdict().items() if tensor is not None]


def export_graph(module: nn.Module, example: dict[str, Tensor], outputs: Sequence[str], path: Path) -> Graph:
    """Writes one graph to one file and verifies that its row axis is free.

    Args:
        module: takes the examples in their order.
        example: a tensor of EXAMPLE_ROWS rows for each input, by name.
        outputs: names for what the module returns.
        path: of the file.

    Raises:
        ExportError: the exporter fixed the row axis.
    """
    rows = torch.export.Dim("rows", min=1, max=2**20)
    shapes: tuple[Any, ...] = tuple({0: rows} for _ in example)
    if any(one.kind is one.VAR_POSITIONAL for one in inspect.signature(module.forward).parameters.values()):
        shapes = (shapes,)  # `*tensors` is one argument to torch.export
    with _quiet(), sparing(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=list(example),
                output_names=list(outputs),
                dynamic_shapes=shapes,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0]
            raise ExportError(
                f"the network cannot be written as an ONNX graph ({cause}); no bundle was written"
            ) from error
        assert program is not None
    _rename_namesakes(program.model.graph)
    onnx.save(without_traces(program.model_proto), path)
    return graph_of(path)


def graph_of(path: Path) -> Graph:
    """Describes a file that was written; raises ExportError if its row axis is fixed."""
    graph = onnx.load(path).graph
    for value in (*graph.input, *graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"{path.name}: {value.name}: the exporter fixed the row axis")
    return Graph(
        file=path.name,
        inputs=tuple(_spec(value) for value in graph.input),
        outputs=tuple(_spec(value) for value in graph.output),
    )


def _rename_namesakes(graph: Any) -> None:
    """The exporter calls a tensor within after its operator, `embedding` say, though an output is called so, too."""
    ends = (*graph.inputs, *graph.outputs)
    within = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in within:
        if value.name in {end.name for end in ends} and not any(value is end for end in ends):
            graph.initializers.pop(value.name, None)
            value.name = f"{value.name}_within"
            if value.is_initializer() or value.producer() is None:
                graph.initializers[value.name] = value


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter notes where in whose source each node came from: paths that would make equal encoders differ."""
    graph = model.graph
    parts: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in parts:
        del part.metadata_props[:]
    return model


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtypes: dict[int, Any] = {
        onnx.TensorProto.UINT8: "uint8",
        onnx.TensorProto.INT16: "int16",
        onnx.TensorProto.FLOAT: "float32",
    }
    shape = tuple(axis.dim_value for axis in tensor.shape.dim[1:])
    if tensor.elem_type not in dtypes or 0 in shape:
        raise ExportError(f"{value.name}: got element type {tensor.elem_type} and shape {shape} after the rows")
    return TensorSpec(value.name, dtypes[tensor.elem_type], shape)


class GraphRunner:
    """Runs graphs of a folder one after another, joined by tensor names.

    Args:
        folder: of the graphs.
        graphs: in the order they run.
        device: `cpu`, or `cuda` under the options that the service takes.

    Raises:
        ExportError: CUDA was asked for and does not work.
    """

    def __init__(self, folder: Path, graphs: Iterable[Graph], device: Device = "cpu") -> None:
        self.folder, self.device = folder, device
        self.graphs = list(graphs)
        self._left_out = frozenset(ON_REQUEST)
        self.sessions = {graph.file: _session(folder / graph.file, device) for graph in self.graphs}

    def with_patches(self) -> GraphRunner:
        """The same, which also returns what is large and seldom wanted."""
        runner = copy.copy(self)
        runner._left_out = frozenset()
        return runner

    def run(self, rows: Values, num_rows: int | None = None) -> Tensors:
        """The outputs of every graph, for all rows, so many at a time; without `ON_REQUEST`.

        Args:
            rows: as the data set has them.
            num_rows: at a time; default: as many as `batch_rows` says.
        """
        return joined(self.batches(rows, num_rows))

    def batches(self, rows: Values, num_rows: int | None = None) -> Iterator[Tensors]:
        """The same, batch by batch; of rows that are not in memory no more than a batch is."""
        unseen = self._left_out - {spec.name for graph in self.graphs for spec in graph.inputs}  # not even computed
        for part in parts_of(rows, num_rows or batch_rows(rows)):
            tensors: dict[str, Any] = {INPUT: part}
            for graph in self.graphs:
                feed = {spec.name: tensors[spec.name] for spec in graph.inputs}
                names = [spec.name for spec in graph.outputs if spec.name not in unseen]
                tensors.update(zip(names, self.sessions[graph.file].run(names, feed), strict=True))
            yield {name: tensor for name, tensor in tensors.items() if name not in (INPUT, *self._left_out)}

    def decode(self, latent_NL: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output of the decoder's graph alone."""
        (graph,) = (graph for graph in self.graphs if [spec.name for spec in graph.inputs] == ["latent"])
        reconstruction: NDArray[np.float32] = self.sessions[graph.file].run(["reconstruction"], {"latent": latent_NL})[
            0
        ]
        return reconstruction


def joined(parts: Iterable[Tensors]) -> Tensors:
    """Outputs of some rows after those of others."""
    lists: dict[str, list[NDArray[np.float32]]] = {}
    for part in parts:
        for name, tensor in part.items():
            lists.setdefault(name, []).append(tensor)
    return {name: np.concatenate(tensors) for name, tensors in lists.items()}


def _session(path: Path, device: Device) -> ort.InferenceSession:
    if device == "cpu":
        return ort.InferenceSession(path, _options(), providers=[CPU])
    problem: Exception | None = None
    if CUDA in ort.get_available_providers():
        ort.preload_dlls()
        try:  # without enable_fallback=0 a provider that fails is a banner on stdout and a session on the CPU
            session = ort.InferenceSession(path, providers=[(CUDA, dict(CUDA_OPTIONS))], enable_fallback=0)
            if CUDA in session.get_providers():
                return session
        except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
            problem = error
    why = str(problem).splitlines()[0] if problem else f"ONNX Runtime could not start {CUDA}"
    raise ExportError(f"device: got no working CUDA ({why}), expected one, because device is 'cuda'") from problem


def _options() -> ort.SessionOptions:
    """ONNX Runtime takes a thread for each core, whatever a container's quota says, and lets them spin between runs."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as the service does
    if (num := available_cpus()) < cpu_set():
        options.intra_op_num_threads = num
    return options


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own internals."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
