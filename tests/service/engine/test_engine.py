from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentserve import bundle
from latentserve.devices import CPU, CUDA, CUDA_OPTIONS, TENSORRT
from latentserve.errors import BundleError
from service.engine import providers as providers_module
from service.engine.engine import Engine, bucket_sizes
from service.engine.providers import DeviceConfig, DeviceError, Sessions, node_counts, open_sessions, providers, why_not
from service.engine.runners import DeviceRunner, HostRunner
from service.scheduling.queue import Piece

EVERYTHING = frozenset({"embedding", "latent", "latent_scale", "reconstruction", "scores"})


def on_cpu(max_batch_rows: int) -> DeviceConfig:
    return DeviceConfig("cpu", 1, max_batch_rows)


@pytest.fixture(scope="module", params=[(True, False), (False, False), (True, True)], ids=["padded", "exact", "bound"])
def engine(bundle_folder: Path, request: pytest.FixtureRequest) -> Engine:
    """On the CPU in three ways; `bound` is the path that a GPU takes, between fixed buffers."""
    padded, bound = request.param
    return Engine(bundle_folder, bundle.load(bundle_folder), on_cpu(16), padded=padded, bound=bound)


def run(engine: Engine, images: NDArray[Any], *wants: str) -> dict[str, NDArray[Any]]:
    (tensors,) = engine.run("input", [Piece(images, frozenset(wants))])
    return tensors


def test_buckets_are_powers_of_two_and_the_maximum() -> None:
    assert bucket_sizes(1) == [1]
    assert bucket_sizes(8) == [1, 2, 4, 8]
    assert bucket_sizes(20) == [1, 2, 4, 8, 16, 20]


def test_only_the_graphs_that_are_needed_run(engine: Engine) -> None:
    def files(*wants: str) -> list[str]:
        return [graph.file for graph in engine.plan("input", frozenset(wants))]

    assert files("embedding") == ["encoder.onnx"]
    assert files("latent") == ["encoder.onnx"]
    assert files("embedding", "reconstruction") == ["encoder.onnx", "decoder.onnx"]
    assert files("scores") == ["encoder.onnx", "decoder.onnx", "scorer.onnx"]
    assert [graph.file for graph in engine.plan("latent", frozenset({"reconstruction"}))] == ["decoder.onnx"]


def test_the_encoder_runs_once_and_the_decoder_for_the_rows_that_asked(
    engine: Engine, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    for file, runner in engine._runners.items():

        def spy(
            size: int, feed: dict[str, Any], *left_out: Any, file: str = file, run: Any = runner.run
        ) -> dict[str, Any]:
            ran.append((file, size))
            outputs: dict[str, Any] = run(size, feed, *left_out)
            return outputs

        monkeypatch.setattr(runner, "run", spy)
    pieces = [
        Piece(digits[:3], frozenset({"embedding"})),
        Piece(digits[3:5], frozenset({"scores"})),
        Piece(digits[5:6], frozenset({"reconstruction", "embedding"})),
    ]
    got = engine.run("input", pieces)
    sizes = [next(size for size in engine.buckets if size >= rows) for rows in (6, 3, 2)]
    assert ran == list(zip(("encoder.onnx", "decoder.onnx", "scorer.onnx"), sizes, strict=True))
    assert [set(tensors) for tensors in got] == [set(piece.wants) for piece in pieces]
    for piece, tensors in zip(pieces, got, strict=True):
        alone = run(engine, piece.rows, *piece.wants)
        for name in piece.wants:
            np.testing.assert_array_equal(tensors[name], alone[name])


def test_answers_do_not_depend_on_batch_mates_or_batch_size_bit_for_bit(
    engine: Engine, digits: NDArray[np.uint8]
) -> None:
    alone = [run(engine, digits[i : i + 1], *EVERYTHING) for i in range(16)]
    for size in range(1, 17):
        together = run(engine, digits[:size], *EVERYTHING)
        for name in EVERYTHING:
            np.testing.assert_array_equal(together[name], np.concatenate([one[name] for one in alone[:size]]))


def test_golden_rows_prove_the_served_numbers(engine: Engine, bundle_folder: Path) -> None:
    golden = bundle.load_arrays(bundle_folder / bundle.GOLDEN)
    assert golden["input"].shape == (8, 8, 8, 1)
    engine.check_golden(golden)
    with pytest.raises(BundleError, match=r"golden rows: latent is .* off the trained model on CPU.*expected at most"):
        engine.check_golden(golden | {"latent": golden["latent"] + 0.01})
    with pytest.raises(BundleError, match="golden rows: embedding is nan"):
        engine.check_golden(golden | {"embedding": golden["embedding"] * np.nan})


def test_golden_scores_may_be_off_where_no_p_value_moves(engine: Engine, bundle_folder: Path) -> None:
    """What export accepts the service does, on a machine that rounds otherwise."""
    golden = bundle.load_arrays(bundle_folder / bundle.GOLDEN)
    calibration = bundle.load_calibration(bundle_folder, engine.manifest)
    ranked = np.stack(
        [np.searchsorted(scores, golden["scores"][:, k]) for k, scores in enumerate(calibration.values())], 1
    )
    gaps = np.stack([np.append(scores, np.inf)[ranked[:, k]] for k, scores in enumerate(calibration.values())], 1)
    flat = np.where(np.isfinite(gaps), gaps, golden["scores"] + 1)  # as far up as no rank changes
    assert np.abs(flat - golden["scores"]).max() > 0.01
    engine.check_golden(golden | {"scores": flat})
    with pytest.raises(BundleError, match=r"scores is .* expected at most .*, and p by \w+ is .*, expected .* \+- "):
        engine.check_golden(golden | {"scores": golden["scores"] - 2})


def test_padding_is_told(engine: Engine) -> None:
    expected = [0, 1, 0, 7] if len(engine.buckets) < 16 else [0, 0, 0, 0]
    assert [engine.padding(rows) for rows in (1, 3, 8, 9)] == expected


def test_a_cpu_pads_nothing(bundle_folder: Path) -> None:
    assert Engine(bundle_folder, bundle.load(bundle_folder), on_cpu(4)).buckets == [1, 2, 3, 4]


def test_a_file_that_is_no_graph_is_a_broken_bundle(copied_bundle: Path) -> None:
    (copied_bundle / "encoder.onnx").write_bytes(b"not a graph")
    manifest = bundle._read_manifest(copied_bundle)
    with pytest.raises(BundleError, match="encoder.onnx: ONNX Runtime cannot load it"):
        Engine(copied_bundle, manifest, on_cpu(4))


def test_a_graph_that_is_not_what_the_manifest_says_is_a_broken_bundle(copied_bundle: Path) -> None:
    (copied_bundle / "decoder.onnx").write_bytes((copied_bundle / "scorer.onnx").read_bytes())
    manifest = bundle._read_manifest(copied_bundle)
    with pytest.raises(BundleError, match="decoder.onnx: got tensors .*the manifest says"):
        Engine(copied_bundle, manifest, on_cpu(4))


def opened(folder: Path, device: Any, recorded: bool = False) -> Sessions:
    """The bundle's sessions on a device."""
    return open_sessions(folder, bundle.load(folder).graphs.values(), DeviceConfig(device, 1, 16, recorded))


def test_without_cuda_auto_runs_on_the_cpu_and_cuda_fails(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers_module, "why_not", lambda provider: "no NVIDIA driver")
    assert opened(bundle_folder, "auto").execution_provider == CPU
    assert opened(bundle_folder, "cpu").execution_provider == CPU
    with pytest.raises(DeviceError, match="got no working CUDAExecutionProvider .no NVIDIA driver., expected"):
        opened(bundle_folder, "cuda")
    with pytest.raises(DeviceError, match="got no working TensorrtExecutionProvider"):
        opened(bundle_folder, "tensorrt")


class PretendedDevice:
    """Opens sessions on the CPU and says they are where they were asked for, but for one that it refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: str = "", why: type[Exception] = BundleError) -> None:
        self.opened: list[tuple[str, str]] = []
        self._open = providers_module.open_session
        self._refused, self._why = refused, why
        monkeypatch.setattr(providers_module, "why_not", lambda provider: None)
        monkeypatch.setattr(providers_module, "open_session", self.open)

    def open(self, folder: Path, graph: Any, provider: str, config: DeviceConfig) -> Any:
        if provider != CPU and graph.file == self._refused:
            raise self._why("no Tan")
        self.opened.append((graph.file, provider))
        return self._open(folder, graph, CPU, config)


@pytest.mark.parametrize(("device", "expected"), [("auto", CUDA), ("cuda", CUDA), ("tensorrt", TENSORRT), ("cpu", CPU)])
def test_each_graph_is_opened_once_on_the_device_that_works(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, device: str, expected: str
) -> None:
    """Opening is what takes minutes on TensorRT, which builds its engines then: no session is only tried."""
    pretended = PretendedDevice(monkeypatch)
    assert opened(bundle_folder, device).execution_provider == expected
    files = [graph.file for graph in bundle.load(bundle_folder).graphs.values()]
    assert pretended.opened == [(file, expected) for file in files]


def test_a_device_is_taken_only_if_it_runs_every_graph(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = PretendedDevice(monkeypatch, refused="scorer.onnx")
    sessions = opened(bundle_folder, "auto")
    assert sessions.execution_provider == CPU
    assert [provider for _, provider in pretended.opened].count(CPU) == len(sessions.of) == 3
    with pytest.raises(BundleError, match="no Tan"):  # the bundle is refused by name, the device stays for others
        opened(bundle_folder, "cuda")


def test_a_provider_that_does_not_start_is_a_device_that_is_not_there(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PretendedDevice(monkeypatch, refused="encoder.onnx", why=DeviceError)
    assert opened(bundle_folder, "auto").execution_provider == CPU
    with pytest.raises(DeviceError, match="got no working CUDAExecutionProvider .no Tan., expected one"):
        opened(bundle_folder, "cuda")


def test_what_a_provider_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not("QNNExecutionProvider") == "this onnxruntime has no QNNExecutionProvider"
    if CUDA not in providers_module.ort.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    monkeypatch.setattr(providers_module, "has_driver", lambda: False)
    assert why_not(CUDA) == "no NVIDIA driver"
    monkeypatch.setattr(providers_module, "has_driver", lambda: True)
    monkeypatch.setattr(providers_module.ort, "preload_dlls", lambda: None)
    monkeypatch.setitem(providers_module.LIBRARIES, CUDA, "libnot_there.so.13")
    assert str(why_not(CUDA)).endswith("libnot_there.so.13: cannot open shared object file: No such file or directory")


def test_every_node_is_asked_where_it_runs(engine: Engine) -> None:
    for runner in engine._runners.values():
        counts = node_counts(runner._session)
        assert set(counts) == {CPU}
        assert counts[CPU] > 1


@pytest.mark.parametrize(
    ("on_cpu", "expected"),
    [
        (["Concat", "Squeeze"], None),  # shapes
        (["Concat", "Tan", "Asinh"], "CUDAExecutionProvider leaves Asinh, Tan to the CPU"),
    ],
)
def test_only_shapes_may_be_worked_out_on_the_cpu(on_cpu: list[str], expected: str | None) -> None:
    def part(provider: str, ops: list[str]) -> Any:
        nodes = [SimpleNamespace(op_type=op) for op in ops]
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

    parts = [part(CUDA, ["Conv", "Asinh2"]), part(CPU, on_cpu)]
    session: Any = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    assert providers_module.left_to_cpu(session, CUDA) == expected


def test_cuda_keeps_float32_grows_by_what_is_asked_and_does_not_race_its_algorithms(bundle_folder: Path) -> None:
    graph = bundle.load(bundle_folder).graphs["decoder"]
    ((name, options),) = providers(CUDA, graph, DeviceConfig("cuda", 1, 32))
    assert (name, options) == (CUDA, CUDA_OPTIONS)
    assert options["use_tf32"] == "0"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    ((_, options),) = providers(CUDA, graph, DeviceConfig("cuda", 1, 32, cuda_graphs=True))
    assert options["enable_cuda_graph"] == "1"
    ((_, options),) = providers(CUDA, graph, DeviceConfig("cuda", 1, 32, cuda_options=(("use_tf32", "1"),)))
    assert options == CUDA_OPTIONS | {"use_tf32": "1"}


def test_a_gpu_that_is_named_is_the_one_that_is_opened_and_its_memory_is_what_is_bound(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = bundle.load(bundle_folder).graphs["decoder"]
    ((_, options),) = providers(CUDA, graph, DeviceConfig("cuda:3", 1, 32))
    assert options == CUDA_OPTIONS | {"device_id": "3"}
    for _, options in providers(TENSORRT, graph, DeviceConfig("tensorrt:1", 1, 32)):
        assert options["device_id"] == "1"
    asked: list[tuple[str, int]] = []
    memory = providers_module.ort.OrtValue.ortvalue_from_shape_and_type

    def made(shape: Any, dtype: Any, device: str, gpu: int) -> Any:
        asked.append((device, gpu))
        return memory(shape, dtype, "cpu", 0)

    monkeypatch.setattr(providers_module.ort.OrtValue, "ortvalue_from_shape_and_type", made)
    runner = DeviceRunner(opened(bundle_folder, "cpu").of["decoder.onnx"], graph, "cuda", gpu=3)
    given = graph.inputs[0]
    runner.run(2, {given.name: np.zeros((2, *given.shape), given.dtype)})
    assert set(asked) == {("cuda", 3)}


def test_a_gpu_that_is_not_there_is_not_opened(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.devices.num_gpus", lambda: 2)
    with pytest.raises(DeviceError, match="got cuda:2, expected one that is there: this machine shows cuda:0, cuda:1"):
        opened(bundle_folder, "cuda:2")


def test_tensorrt_names_every_batch_size_of_every_input_and_keeps_what_it_built(
    bundle_folder: Path, tmp_path: Path
) -> None:
    for graph in bundle.load(bundle_folder).graphs.values():
        config = DeviceConfig("tensorrt", 1, 32, engine_cache=tmp_path)
        (name, options), (second, _) = providers(TENSORRT, graph, config)
        assert (name, second) == (TENSORRT, CUDA)
        for bound, rows in (("min", 1), ("opt", 32), ("max", 32)):
            shapes = dict(shape.split(":") for shape in options[f"trt_profile_{bound}_shapes"].split(","))
            assert shapes == {one.name: "x".join(map(str, (rows, *one.shape))) for one in graph.inputs}
        assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"


def test_the_largest_batch_warms_up_first(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's arena that held the largest holds all others; the other way round each one would add to it."""
    engine = Engine(bundle_folder, bundle.load(bundle_folder), on_cpu(8), padded=True, bound=True)
    sizes: list[int] = []
    monkeypatch.setattr(engine, "run", lambda given, pieces: sizes.append(len(pieces[0].rows)))
    engine.warm_up()
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {8, 4, 2, 1}


class RecordedSession:
    """Notes which recording (CUDA graph) each run replays."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.replayed: list[str] = []

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.replayed.append(options.get_run_config_entry("gpu_graph_id"))
        self.session.run_with_iobinding(binding, options)


def test_each_batch_size_has_a_recording_and_buffers_of_its_own(bundle_folder: Path) -> None:
    graph = bundle.load(bundle_folder).graphs["encoder"]
    session = RecordedSession(opened(bundle_folder, "cpu").of["encoder.onnx"])
    runner = DeviceRunner(session, graph, "cpu", cuda_graphs=True)  # type: ignore[arg-type]
    given = graph.inputs[0]
    addresses = []
    for size in (4, 2, 4, 2, 1):
        outputs = runner.run(size, {given.name: np.zeros((size, *given.shape), given.dtype)})
        addresses.append(outputs["embedding"].data_ptr())
    assert session.replayed == ["1", "2", "1", "2", "3"]  # 0 is ONNX Runtime's own, -1 would record nothing
    assert addresses[:2] == addresses[2:4]
    assert len(set(addresses)) == 3


def test_on_a_device_no_buffer_is_made_twice_and_what_another_graph_left_is_read_where_it_lies(
    bundle_folder: Path, digits: NDArray[np.uint8]
) -> None:
    engine = Engine(bundle_folder, bundle.load(bundle_folder), on_cpu(8), padded=True, bound=True)
    before = run(engine, digits[:3], "reconstruction")["reconstruction"].copy()
    decoder = engine._runners["decoder.onnx"]
    assert isinstance(decoder, DeviceRunner)
    ((size, _, resident),) = decoder._buffers
    assert (size, len(resident)) == (4, 1)
    run(engine, digits[4:7], "reconstruction")
    assert len(decoder._buffers) == 1
    np.testing.assert_array_equal(run(engine, digits[:3], "reconstruction")["reconstruction"], before)
    # One of two pieces wants it: its latents are cut out on the host and sent again.
    pieces = [Piece(digits[:1], frozenset({"embedding"})), Piece(digits[:3], frozenset({"reconstruction"}))]
    np.testing.assert_array_equal(engine.run("input", pieces)[1]["reconstruction"], before)
    assert sorted((size, len(resident)) for size, _, resident in decoder._buffers) == [(4, 0), (4, 1)]


def test_a_cpu_binds_nothing(bundle_folder: Path) -> None:
    engine = Engine(bundle_folder, bundle.load(bundle_folder), on_cpu(4))
    assert all(isinstance(runner, HostRunner) for runner in engine._runners.values())


@pytest.mark.gpu
@pytest.mark.parametrize("recorded", [False, True])
def test_on_a_gpu_the_golden_rows_hold(bundle_folder: Path, recorded: bool) -> None:
    if why_not(CUDA) is not None:
        pytest.skip("no working CUDA here")
    on_gpu = Engine(bundle_folder, bundle.load(bundle_folder), DeviceConfig("cuda", 1, 16, cuda_graphs=recorded))
    on_gpu.warm_up()
    on_gpu.check_golden(bundle.load_arrays(bundle_folder / bundle.GOLDEN))
