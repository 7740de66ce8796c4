"""A teacher to learn from: the bundle of a small network with random weights, which is made in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latentserve import bundle, records
from latentserve.inputs import INPUT, AudioInput, ImageInput, TensorSpec

DIM, HIDDEN = 12, 24
GREY_12 = ImageInput(12, 12, 1)


def write_teacher(models: Path, row: ImageInput | AudioInput = GREY_12, *, name: str = "random", seed: int = 0) -> Path:
    """A bundle with an encoder alone: two layers, a ReLU after the first."""
    folder = models / name / "1"
    folder.mkdir(parents=True)
    _write_encoder(row, seed, folder / "encoder.onnx")
    np.savez(folder / bundle.GOLDEN, input=np.zeros((1, *row.spec.shape), row.spec.dtype))
    graph = bundle.Graph("encoder.onnx", (row.spec,), (TensorSpec("embedding", "float32", (DIM,)),))
    files = {file.name: bundle.sha256_of_file(file) for file in folder.iterdir()}
    manifest = bundle.Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=name,
        version=1,
        input=row,
        graphs={"encoder": graph},
        embedding_space=bundle.embedding_space(files["encoder.onnx"]),
        provenance=bundle.Provenance("none", "none", "", seed, 0, {}, "", 0.0, "", "", {}),
        files=files,
    )
    records.write(manifest, folder / bundle.MANIFEST)
    return folder


def _write_encoder(row: ImageInput | AudioInput, seed: int, file: Path) -> None:
    rng = np.random.default_rng(seed)
    num = int(np.prod(row.spec.shape))
    weights = {"first": rng.normal(size=(num, HIDDEN)) / 255, "second": rng.normal(size=(HIDDEN, DIM))}
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["embedding"]),
    ]
    kind = {"uint8": TensorProto.UINT8, "int16": TensorProto.INT16}[row.spec.dtype]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(INPUT, kind, ["rows", *row.spec.shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", DIM])],
        [numpy_helper.from_array(array.astype(np.float32), one) for one, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
