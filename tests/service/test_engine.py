from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentserve import bundle
from latentserve.errors import BundleError
from service import engine as engine_module
from service.batching import Piece
from service.engine import CPU, DeviceError, Engine, bucket_sizes, choose_provider

EVERYTHING = frozenset({"embedding", "latent", "latent_scale", "reconstruction", "scores"})


@pytest.fixture(scope="module", params=[True, False], ids=["padded", "exact"])
def engine(bundle_folder: Path, request: pytest.FixtureRequest) -> Engine:
    return Engine(bundle_folder, bundle.load(bundle_folder), 16, "cpu", 1, padded=request.param)


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
    original = Engine._run_graph

    def spy(self: Engine, graph: bundle.Graph, members: list[Any]) -> None:
        ran.append((graph.file, sum(len(member["input"]) for member in members)))
        original(self, graph, members)

    monkeypatch.setattr(Engine, "_run_graph", spy)
    pieces = [
        Piece(digits[:3], frozenset({"embedding"})),
        Piece(digits[3:5], frozenset({"scores"})),
        Piece(digits[5:6], frozenset({"reconstruction", "embedding"})),
    ]
    got = engine.run("input", pieces)
    assert ran == [("encoder.onnx", 6), ("decoder.onnx", 3), ("scorer.onnx", 2)]
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


def test_padding_is_told(engine: Engine) -> None:
    expected = [0, 1, 0, 7] if len(engine.buckets) < 16 else [0, 0, 0, 0]
    assert [engine.padding(rows) for rows in (1, 3, 8, 9)] == expected


def test_a_cpu_pads_nothing(bundle_folder: Path) -> None:
    assert Engine(bundle_folder, bundle.load(bundle_folder), 4, "cpu", 1).buckets == [1, 2, 3, 4]


def test_a_file_that_is_no_graph_is_a_broken_bundle(copied_bundle: Path) -> None:
    (copied_bundle / "encoder.onnx").write_bytes(b"not a graph")
    manifest = bundle._read_manifest(copied_bundle)
    with pytest.raises(BundleError, match="encoder.onnx: ONNX Runtime cannot load it"):
        Engine(copied_bundle, manifest, 4, "cpu", 1)


def test_a_graph_that_is_not_what_the_manifest_says_is_a_broken_bundle(copied_bundle: Path) -> None:
    (copied_bundle / "decoder.onnx").write_bytes((copied_bundle / "scorer.onnx").read_bytes())
    manifest = bundle._read_manifest(copied_bundle)
    with pytest.raises(BundleError, match="decoder.onnx: got tensors .*the manifest says"):
        Engine(copied_bundle, manifest, 4, "cpu", 1)


def test_without_cuda_auto_runs_on_the_cpu_and_cuda_fails(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_why_no_cuda", lambda graph: "no NVIDIA driver")
    graph = bundle_folder / "encoder.onnx"
    assert choose_provider("auto", graph) == CPU
    assert choose_provider("cpu", graph) == CPU
    with pytest.raises(DeviceError, match="got no working CUDA .no NVIDIA driver., expected one"):
        choose_provider("cuda", graph)


def test_with_cuda_auto_takes_it_unless_the_cpu_is_asked_for(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_why_no_cuda", lambda graph: None)
    graph = bundle_folder / "encoder.onnx"
    assert choose_provider("auto", graph) == "CUDAExecutionProvider"
    assert choose_provider("cuda", graph) == "CUDAExecutionProvider"
    assert choose_provider("cpu", graph) == CPU


@pytest.mark.gpu
def test_on_a_gpu_the_golden_rows_hold(bundle_folder: Path) -> None:
    graph = bundle_folder / "encoder.onnx"
    if choose_provider("auto", graph) == CPU:
        pytest.skip("no working CUDA here")
    on_gpu = Engine(bundle_folder, bundle.load(bundle_folder), 16, "cuda", 1)
    on_gpu.warm_up()
    on_gpu.check_golden(bundle.load_arrays(bundle_folder / bundle.GOLDEN))
