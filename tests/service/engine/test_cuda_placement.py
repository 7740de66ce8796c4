"""Every graph that we export would run on CUDA: one that leaves work to the CPU gets its bundle refused on a GPU."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks.serving.encoders import write_bundle
from export.detectors import Scorer
from export.graphs import DecoderGraph, EncoderGraph, GraphRunner, encoder_outputs, export_graph
from export.half import halve
from latentserve import bundle, records
from latentserve.bundle import Graph
from latentserve.devices import CPU, CUDA
from latentserve.inputs import INPUT, TensorSpec
from tests import pretended_cuda
from training.data import AudioShape, ImageShape
from training.methods import METHODS
from training.schedule import LoopConfig

ROWS = 120
GREY, COLOUR, SOUND = ImageShape(28, 1), ImageShape(32, 3), AudioShape(8000, 4000)


@dataclass(frozen=True)
class Model:
    """Which untrained model to export."""

    method: str
    shape: Any
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its graphs' files."""
        return "-".join(map(str, (self.method, *self.config.values())))


# Not here: the GRU of cpc_audio, whose kernel wants cuDNN as soon as the session opens.
MODELS = (
    Model("vae", GREY, {"width": 4}),
    Model("vae", COLOUR, {"width": 4, "objective": "autoencoder"}),
    Model("simclr", GREY, {"width": 4}),
    Model("simclr", COLOUR, {"backbone": "resnet18", "width": 8}),
    Model("cpc", GREY, {}),
    Model("bigbigan", GREY, {"width": 4}),
    Model("cpc_audio", SOUND, {}),
)
ALSO_SCORED = (MODELS[3], MODELS[5], MODELS[6])
"""Of colours, of grey with a decoder and a discriminator, of sound: the others' detectors are among theirs."""


def export(model: Model, folder: Path) -> list[Graph]:
    """All graphs of the untrained model."""
    method = METHODS[model.method]
    module: Any = method.module(method.config(**model.config), LoopConfig(), model.shape).eval()
    rng = np.random.default_rng(0)
    if isinstance(model.shape, AudioShape):
        rows: Any = rng.integers(-9000, 9000, (ROWS, model.shape.num_samples)).astype(np.int16)
    else:
        size = model.shape.image_size
        rows = rng.integers(0, 256, (ROWS, size, size, model.shape.channels), np.uint8)
    example = torch.from_numpy(rows[:2])
    file = folder / f"{model.name}-encoder.onnx"
    graphs = [export_graph(EncoderGraph(module), {INPUT: example}, encoder_outputs(module, example), file)]
    if hasattr(module, "decode"):
        (latent,) = (spec for spec in graphs[0].outputs if spec.name == "latent")
        file = folder / f"{model.name}-decoder.onnx"
        graphs.append(
            export_graph(DecoderGraph(module), {"latent": torch.zeros(2, *latent.shape)}, ["reconstruction"], file)
        )
    if model not in ALSO_SCORED:
        return graphs
    tensors = {INPUT: rows, **GraphRunner(folder, graphs).run(rows)}
    scorer = Scorer.fit(module, tensors)
    given = {name: torch.from_numpy(tensors[name][:2]) for name in scorer.inputs}
    graphs.append(export_graph(scorer, given, ["scores"], folder / f"{model.name}-scorer.onnx"))
    return graphs


Exported = Callable[[Model], tuple[Path, list[Graph]]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The folder and the graphs of a model, exported when they are first asked for; not to be changed."""

    @functools.cache
    def of(name: str) -> tuple[Path, list[Graph]]:
        folder = tmp_path_factory.mktemp(name)
        return folder, export(next(model for model in MODELS if model.name == name), folder)

    return lambda model: of(model.name)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not pretended_cuda.PROVIDER.exists():
        pytest.skip("this onnxruntime was built without CUDA")
    folder = tmp_path_factory.mktemp("cuda")
    try:
        pretended_cuda.build(folder)
    except OSError as error:
        pytest.skip(f"libraries cannot be compiled here: {error}")
    return folder


def placed(libraries: Path, folder: Path, graphs: list[Graph]) -> dict[str, Any]:
    """For each file its nodes by provider, or why the session was refused; writes into the folder."""
    (folder / "graphs.json").write_text(json.dumps([records.to_json(graph) for graph in graphs]))
    command = [sys.executable, "-m", "tests.pretended_cuda", str(libraries), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_node_of_every_graph_goes_to_cuda(
    model: Model, exported: Exported, libraries: Path, tmp_path: Path
) -> None:
    folder, graphs = exported(model)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    found = placed(libraries, tmp_path, graphs)
    assert [file for file, nodes in found.items() if not isinstance(nodes, dict) or CUDA not in nodes] == []
    assert list(found) == [graph.file for graph in graphs]


@pytest.mark.parametrize("name", ["r18", "vit_s16"])
def test_the_encoders_that_gpus_are_measured_with_go_to_cuda(name: str, libraries: Path, tmp_path: Path) -> None:
    folder = write_bundle(name, tmp_path, "float16")
    (nodes,) = placed(libraries, folder, list(bundle.load(folder).graphs.values())).values()
    assert isinstance(nodes, dict), nodes
    assert nodes[CUDA] > 5 * nodes.get(CPU, 0)  # what a row axis of any length asks of the CPU


@pytest.mark.parametrize("model", [MODELS[0], MODELS[2], MODELS[5]], ids=lambda model: model.name)
def test_encoders_in_16_bits_go_to_cuda(model: Model, exported: Exported, libraries: Path, tmp_path: Path) -> None:
    folder, (graph, *_) = exported(model)
    shutil.copy(folder / graph.file, tmp_path)
    halve(tmp_path / graph.file)
    (nodes,) = placed(libraries, tmp_path, [graph]).values()
    assert isinstance(nodes, dict), nodes
    assert CUDA in nodes


def test_a_graph_with_a_node_for_the_cpu_is_refused(libraries: Path, tmp_path: Path) -> None:
    """ONNX Runtime has no kernel of asinh for CUDA: what the test above would not notice if nothing were asked."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 3]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Asinh", ["x"], ["y"])], "g", [x], [y])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "g.onnx")
    specs = [(TensorSpec(name, "float32", (3,)),) for name in "xy"]
    (why,) = placed(libraries, tmp_path, [Graph("g.onnx", *specs)]).values()
    assert why.endswith("g.onnx: CUDAExecutionProvider leaves Asinh to the CPU")
