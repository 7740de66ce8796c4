"""A bundle whose scorer has a map, made of a bundle of digits: small, and every number of it can be worked out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from latentserve import bundle, records
from latentserve.bundle import Detector, Graph, Manifest, TensorSpec
from latentserve.conformal import sha256_of_scores
from latentserve.inputs import ANOMALY_MAP, INPUT

PLACES = (4, 4)
"""Of a map: each is the mean of 2 x 2 pixels of digits of 8 x 8."""
NAMES = ("mean", "places")
"""The detectors: the mean of the map, which decides, and its maximum."""


def expected_map(rows_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the map is: the mean brightness of each place."""
    blocks = rows_NHWC[..., 0].reshape(-1, 4, 2, 4, 2).astype(np.float32)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def without_map(manifest: Manifest) -> Manifest:
    """The manifest as if its scorer had no map, so that its detectors may be others."""
    scorer = manifest.graphs["scorer"]
    outputs = tuple(spec for spec in scorer.outputs if spec.name != ANOMALY_MAP)
    graphs = manifest.graphs | {"scorer": replace(scorer, outputs=outputs)}
    return replace(manifest, graphs=graphs, map_detector="")


def with_map(folder: Path, calibration_rows: NDArray[np.uint8], name: str, has_map: bool = True) -> None:
    """Replaces the scorer of the bundle in the folder, which is named `name/1`, by one with a map.

    Args:
        folder: of a bundle of digits.
        calibration_rows: of its new detectors.
        name: its new one.
        has_map: whether the graph outputs the map from which its scores are made.
    """
    manifest = records.read(Manifest, folder / bundle.MANIFEST)
    _scorer(folder / "scorer.onnx", has_map)
    session = ort.InferenceSession(folder / "scorer.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {INPUT: calibration_rows})
    ordered = {one: np.sort(scores[:, k]) for k, one in enumerate(NAMES)}
    np.savez(folder / bundle.CALIBRATION, **ordered)
    golden = dict(np.load(folder / bundle.GOLDEN))
    golden["scores"] = session.run(["scores"], {INPUT: golden[INPUT]})[0]
    golden.pop(ANOMALY_MAP, None)
    specs = [TensorSpec("scores", "float32", (len(NAMES),))]
    if has_map:
        golden[ANOMALY_MAP] = expected_map(golden[INPUT])
        specs.append(TensorSpec(ANOMALY_MAP, "float32", PLACES))
    np.savez(folder / bundle.GOLDEN, **golden)
    detectors = tuple(Detector(one, f"{one} of the map", len(scores), sha256_of_scores(ordered[one])) for one in NAMES)
    graphs = manifest.graphs | {"scorer": Graph("scorer.onnx", (manifest.input.spec,), tuple(specs))}
    named = NAMES[1] if has_map else ""
    made = replace(manifest, name=name, graphs=graphs, detectors=detectors, map_detector=named, evaluations=())
    files = {file: bundle.sha256_of_file(folder / file) for file in manifest.files}
    records.write(replace(made, files=files), folder / bundle.MANIFEST)


def _scorer(path: Path, has_map: bool) -> None:
    nodes = [
        helper.make_node("Cast", [INPUT], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["first"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Squeeze", ["pooled", "one"], [ANOMALY_MAP]),
        helper.make_node("Flatten", [ANOMALY_MAP], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("ReduceMax", ["flat"], ["largest"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "largest"], ["scores"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", 8, 8, 1])]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(NAMES)]),
        helper.make_tensor_value_info(ANOMALY_MAP, TensorProto.FLOAT, ["n", *PLACES]),
    ]
    outputs = outputs if has_map else outputs[:1]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.array([1]), "one")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
