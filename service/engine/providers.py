"""What runs a graph: ONNX Runtime's execution providers, found by trying, and sessions on them.

ONNX Runtime falls back to the CPU with no more than a log line. Here every session is asked where its nodes went, and
one that left more to the CPU than work on shapes is rejected.
"""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from latentserve.bundle import Graph
from latentserve.devices import CPU, CUDA, CUDA_OPTIONS, TENSORRT
from latentserve.errors import BundleError
from service.engine.devices import DeviceError as DeviceError
from service.engine.devices import check_gpus

log = logging.getLogger(__name__)

LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
SHAPE_WORK = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Gather",
        "Mul",
        "Range",
        "Reshape",
        "Shape",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
    ]
)
"""CUDA runs all of these. On the CPU they are there because ONNX Runtime works shapes out where they are needed: a few
integers, and no row is copied."""
ENGINE_CACHE = Path("~/.cache/latentserve/tensorrt")


@dataclass(frozen=True)
class DeviceConfig:
    """On what graphs run.

    Attributes:
        device: `cpu`; `cuda` or `tensorrt` or fail, `cuda:1` on the second GPU; `auto`: CUDA if it works, else the CPU.
        intra_op_threads: threads of one operator on the CPU.
        cuda_graphs: on CUDA, record the kernels of each batch size once and replay them.
        max_batch_rows: largest batch; TensorRT builds its engines for 1 to so many rows.
        engine_cache: folder where TensorRT keeps what it built, for the next start.
        cuda_options: of the CUDA provider, in place of ours or beside them; for measurements.
    """

    device: str
    intra_op_threads: int
    max_batch_rows: int
    cuda_graphs: bool = False
    engine_cache: Path = ENGINE_CACHE
    cuda_options: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """`auto`, `cpu`, `cuda` or `tensorrt`."""
        return self.device.partition(":")[0]

    @property
    def gpu(self) -> int:
        """Number of the GPU; 0 where none is named."""
        return int(self.device.partition(":")[2] or 0)


@dataclass(frozen=True)
class Sessions:
    """The sessions of a bundle's graphs, all on one execution provider.

    Attributes:
        execution_provider: that runs them.
        of: each graph's session, by file.
    """

    execution_provider: str
    of: dict[str, ort.InferenceSession]


def open_sessions(folder: Path, graphs: Iterable[Graph], config: DeviceConfig) -> Sessions:
    """All graphs of a bundle on the device that `config` asks for; `auto` falls back to the CPU, all or none.

    Raises:
        BundleError: ONNX Runtime cannot load a graph, or it is not what the manifest says, or the required device runs
            only a part of it.
        DeviceError: the required device is not there.
    """
    graphs = list(graphs)

    def opened(provider: str) -> Sessions:
        return Sessions(provider, {graph.file: open_session(folder, graph, provider, config) for graph in graphs})

    if config.kind == "cpu":
        return opened(CPU)
    wanted = TENSORRT if config.kind == "tensorrt" else CUDA
    check_gpus([config.device])
    try:
        if (why := why_not(wanted)) is not None:
            raise DeviceError(why)
        return opened(wanted)
    except (DeviceError, BundleError) as error:
        if config.device == "auto":
            log.info("no CUDA here (%s): running on the CPU", error)
            return opened(CPU)
        if isinstance(error, BundleError):
            raise
        raise DeviceError(
            f"device: got no working {wanted} ({error}), expected one, because device is {config.device!r}"
        ) from error


@cache
def has_driver() -> bool:
    """Whether this machine, or container, was given an NVIDIA GPU: its driver is there."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def why_not(provider: str) -> str | None:
    """Why a GPU provider cannot work on this machine, or None if everything it needs is there."""
    if provider not in ort.get_available_providers():
        return f"this onnxruntime has no {provider}"
    if not has_driver():  # before preloading gigabytes of libraries that could not be used
        return "no NVIDIA driver"
    ort.preload_dlls()
    return missing_library(provider)


def missing_library(provider: str) -> str | None:
    """What the system's loader says of the provider's library, which names the one that lacks; None if it loads.

    ONNX Runtime itself writes it to a log and goes on without the provider.
    """
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / LIBRARIES[provider]))
    except OSError as error:
        return str(error)
    return None


def open_session(folder: Path, graph: Graph, provider: str, config: DeviceConfig) -> ort.InferenceSession:
    """A session for one graph of a bundle.

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or it is not what the manifest says.
        DeviceError: the provider did not start.
    """
    path = folder / graph.file
    options = _options(provider)
    options.intra_op_num_threads = config.intra_op_threads
    options.inter_op_num_threads = 1
    try:
        # Without enable_fallback=0 a provider that fails is a banner on stdout and a session on the CPU.
        session = ort.InferenceSession(
            path, options, providers=providers(provider, graph, config), enable_fallback=int(provider == CPU)
        )
    except Exception as error:  # ONNX Runtime raises its own classes and plain RuntimeError
        raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
    _check_graph(graph, session)
    if provider != CPU:
        if provider not in session.get_providers():
            raise DeviceError(f"ONNX Runtime could not start {provider}")
        if why := left_to_cpu(session, provider):
            raise BundleError(f"{path}: {why}")
    log.info("%s: nodes by provider: %s", path, dict(node_counts(session)))
    return session


def _options(provider: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for name, value in session_entries(provider).items():
        options.add_session_config_entry(name, value)
    return options


def session_entries(provider: str) -> dict[str, str]:
    """Session options by name."""
    entries = {"session.record_ep_graph_assignment_info": "1"}
    if provider == CPU:
        # Threads may spin inside a run, where the next operator comes in microseconds, but not between runs: there they
        # would take the cores from the threads that read, decode and write.
        return entries | {"session.force_spinning_stop": "1"}
    return entries


def providers(provider: str, graph: Graph, config: DeviceConfig) -> list[Any]:
    """What `InferenceSession` takes as providers."""
    if provider == CPU:
        return [CPU]
    device = {"device_id": str(config.gpu)} if config.gpu else {}
    cuda = device | CUDA_OPTIONS | dict(config.cuda_options)
    if config.cuda_graphs and provider == CUDA:
        cuda["enable_cuda_graph"] = "1"
    if provider == CUDA:
        return [(CUDA, cuda)]
    cache_path = str(config.engine_cache.expanduser())
    tensorrt = {
        **device,
        **{"trt_engine_cache_enable": "1", "trt_engine_cache_path": cache_path},
        **{"trt_timing_cache_enable": "1", "trt_timing_cache_path": cache_path},
    }
    # One profile for all batch sizes: without it TensorRT builds an engine anew whenever a batch is larger than before.
    for bound, rows in (("min", 1), ("opt", config.max_batch_rows), ("max", config.max_batch_rows)):
        shapes = [f"{spec.name}:{'x'.join(str(size) for size in (rows, *spec.shape))}" for spec in graph.inputs]
        tensorrt[f"trt_profile_{bound}_shapes"] = ",".join(shapes)
    return [(TENSORRT, tensorrt), (CUDA, cuda)]


def node_counts(session: ort.InferenceSession) -> Counter[str]:
    """How many nodes run on each provider, as ONNX Runtime assigned them."""
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return counts


def left_to_cpu(session: ort.InferenceSession, provider: str) -> str | None:
    """Which work a session for a GPU left to the CPU, or None if that is at most work on shapes."""
    parts = session.get_provider_graph_assignment_info()
    ops = {node.op_type for part in parts if part.ep_name == CPU for node in part.get_nodes()} - SHAPE_WORK
    return f"{provider} leaves {', '.join(sorted(ops))} to the CPU" if ops else None


def _check_graph(graph: Graph, session: ort.InferenceSession) -> None:
    for said, found in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
        expected = {spec.name: list(spec.shape) for spec in said}
        got = {tensor.name: list(tensor.shape[1:]) for tensor in found}
        if got != expected:
            raise BundleError(f"{graph.file}: got tensors {got}, the manifest says {expected}")
