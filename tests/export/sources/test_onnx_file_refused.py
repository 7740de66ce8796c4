"""What `onnx:FILE` refuses: one sentence each, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import export.sources.onnx_file as source
from export.sources.onnx_file import reading
from export.sources.source import SourceError, SourceOptions
from tests.export.sources.files import DIM, FLOAT, HEIGHT, WIDTH, encoder, features, images, node, output, vector, write
from tests.export.sources.test_onnx_file import tokens


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(SourceError) as raised:
        source.open(str(path), SourceOptions(**options))
    message = str(raised.value)
    assert "\n" not in message
    assert not message.endswith(".")
    assert len(message) < 500
    return message


def network(path: Path, *nodes: onnx.NodeProto, given: onnx.ValueInfoProto | None = None, **more: Any) -> Path:
    """The ordinary network, and nodes that make `end` of its features."""
    return write(path, [given or images()], [*features(), *vector(), *nodes], [output("end")], **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def test_what_is_no_onnx_file(path: Path) -> None:
    assert "got nothing there, expected an ONNX file" in refused(path)
    assert "got a folder" in refused(path.parent)
    for content in (b"", b"PK\x03\x04" + bytes(100), b"hello, this is no ONNX file"):
        path.write_bytes(content)
        assert "expected" in refused(path)
    path.write_bytes(encoder(path).read_bytes()[:-100])
    assert "got a file that is no ONNX, expected one" in refused(path)


def test_weights_that_are_not_there(path: Path) -> None:
    model = onnx.load(encoder(path))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()
    assert "got no file 'weights.bin' beside it" in refused(path)
    model = onnx.load(encoder(path))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = (path.parent / "weights.bin").read_bytes()
    (path.parent / "weights.bin").write_bytes(weights[:90])
    assert "got 90 bytes of the weight head in 'weights.bin', expected 100: is that file whole?" in refused(path)
    (path.parent / "weights.bin").unlink()
    elsewhere = path.parent.parent / f"{path.parent.name}-elsewhere"
    elsewhere.write_bytes(weights)
    (path.parent / "weights.bin").symlink_to(elsewhere)
    assert "got weights in 'weights.bin', a link out of its folder, expected a file" in refused(path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../weights.bin"
    onnx.save(model, path)
    assert "got weights in '../weights.bin', expected them in a file beside it" in refused(path)


def test_operators_that_onnx_runtime_has_not(path: Path) -> None:
    network(path, node("Sharpen", ["features"], ["end"], domain="com.example"), domains={"com.example": 1})
    assert "got the operator com.example.Sharpen (node end_node)" in refused(path)
    network(path, node("Sharpen", ["features"], ["end"]))
    assert "got the operator Sharpen (node end_node)" in refused(path)


@pytest.mark.parametrize("opset", [6, 99])
def test_an_opset_of_another_time(path: Path, opset: int) -> None:
    model = onnx.load(encoder(path))
    model.opset_import[0].version = opset
    onnx.save(model, path)
    assert f"got opset {opset}, expected 7 to" in refused(path)


def test_an_opset_that_onnx_runtime_does_not_know_yet(path: Path) -> None:
    model = onnx.load(encoder(path))
    model.opset_import[0].version = onnx.defs.onnx_opset_version()
    onnx.save(model, path)
    assert "got a file that ONNX Runtime" in refused(path)


def test_more_than_a_file_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_BYTES", 100)
    assert "GiB of weights, expected less than 2 GiB" in refused(encoder(path))


def test_inputs(path: Path) -> None:
    other = helper.make_tensor_value_info("mask", FLOAT, ["n", DIM])
    nodes = [*features(), *vector(), node("Mul", ["features", "mask"], ["end"])]
    write(path, [images(), other], nodes, [output("end", "n", DIM)])
    assert f"got 2 inputs (pixels [any, 3, {HEIGHT}, {WIDTH}], mask [any, {DIM}]), expected one" in refused(path)
    for dtype, name in ((TensorProto.INT64, "int64"), (TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "double")):
        cast = [node("Cast", ["raw"], ["pixels"], to=FLOAT), *features(), *vector()]
        write(path, [images(name="raw", dtype=dtype)], cast, [output("features", "n", DIM)])
        assert f"got an input raw of {name}, expected float or uint8" in refused(path)
    write(path, [helper.make_tensor_value_info("x", FLOAT, None)], [node("Relu", ["x"], ["end"])], [output("end")])
    assert "got an input x of shape ?" in refused(path)
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    write(path, [sequence], [node("SequenceAt", ["x", "at"], ["end"])], [output("end")], weights={"at": np.array(0)})
    assert "got an input x that is a sequence, expected a tensor" in refused(path)


def test_shapes_that_leave_something_open(path: Path) -> None:
    both = helper.make_tensor_value_info("x", FLOAT, ["n", 3, HEIGHT, 3])
    write(path, [both], [node("Flatten", ["x"], ["end"])], [output("end")])
    assert "layout: x is [any, 3, 8, 3]: expected --layout NCHW or NHWC" in refused(path)
    free = helper.make_tensor_value_info("pixels", FLOAT, ["n", 3, "h", "w"])
    network(path, node("Relu", ["features"], ["end"]), given=free)
    assert "takes images of any size, and a bundle has one: expected --image-size HEIGHTxWIDTH" in refused(path)
    assert "layout: got NHWC with" not in refused(path, layout="NCHW")
    encoder(path)
    assert "image_size: got 9 x 12, expected that of pixels" in refused(path, image_size=(9, 12))
    assert "layout: got NHWC with 12 channels" in refused(path, layout="NHWC")
    many = helper.make_tensor_value_info("x", FLOAT, ["n", 4, HEIGHT, WIDTH])
    write(path, [many], [node("Flatten", ["x"], ["end"])], [output("end")])
    assert "expected --layout" in refused(path)
    write(path, [helper.make_tensor_value_info("x", FLOAT, ["n", 9])], [node("Relu", ["x"], ["end"])], [output("end")])
    assert "sample_rate_hz: x [any, 9] takes waveforms, expected --sample-rate-hz" in refused(path)
    assert "num_samples: got 8, expected 9" in refused(path, sample_rate_hz=8000, num_samples=8)
    assert "order: got BGR, expected none: x takes waveforms" in refused(path, sample_rate_hz=8000, order="BGR")


def test_numbers_that_cannot_be(path: Path) -> None:
    encoder(path)
    assert "mean: got [0.1, 0.2], expected one number, or one for each of 3" in refused(path, mean=(0.1, 0.2))
    assert "std: got [0.0], expected numbers above 0" in refused(path, std=(0.0,))
    assert "expected none: pixels takes uint8 as it is" in refused(encoder(path, uint8=True), mean=(0.5,))
    assert "shorter_side: got 10 with fit" in refused(encoder(path), shorter_side=10)


def test_several_outputs_and_names(path: Path) -> None:
    outputs = [output("features", "n", DIM), output("map", "n", DIM, HEIGHT, WIDTH)]
    write(path, [images()], [*features(), *vector()], outputs)
    told = refused(path)
    assert f"the file has 2 outputs (features [any, {DIM}], map [any, {DIM}, {HEIGHT}, {WIDTH}]), expected" in told
    assert "got 'feature', expected a tensor of the file (nearest: features" in refused(path, embedding="feature")
    assert "patches: got 'mapp', expected auto or a tensor of the file (nearest: map" in refused(
        path, embedding="map", patches="mapp"
    )
    assert "patches: the tensor features is no map of places" in refused(path, embedding="map", patches="features")
    assert "embedding: got cls, expected auto: map is" in refused(path, embedding="map:cls")


def test_outputs_that_are_no_embedding(path: Path) -> None:
    assert "hidden is [any, 7, 5], a vector for each token: expected hidden:cls or hidden:mean" in refused(tokens(path))
    made = node("SequenceConstruct", ["features"], ["end"])
    sequence = helper.make_tensor_sequence_value_info("end", FLOAT, None)
    write(path, [images()], [*features(), *vector(), made], [sequence])
    assert "embedding: the output end is a sequence, expected a tensor" in refused(path)
    write(
        path,
        [images()],
        [*features(), *vector(), node("ArgMax", ["features"], ["end"], axis=1)],
        [output("end", dtype=TensorProto.INT64)],
    )
    assert "embedding: the tensor end is of int64, expected float" in refused(path)
    twice = [*features(), *vector(), node("Concat", ["features", "features"], ["end"], axis=0)]
    write(path, [images(rows=1)], twice, [output("end", 2, DIM)])
    assert "embedding: the tensor end is [2, 5] for one row, expected [rows, ...]" in refused(path)
    network(path, node("ReduceMean", ["features"], ["end"], keepdims=0), given=images(rows=1))
    assert "embedding: the tensor end is [] for one row, expected [rows, ...]" in refused(path)


def test_an_embedding_that_is_not_a_number(path: Path) -> None:
    network(path, node("Log", ["features"], ["end"]))
    assert "got an embedding that is not finite" in refused(path)


def test_rows_that_depend_on_others(path: Path) -> None:
    nodes = node("ReduceMean", ["features"], ["mean"], axes=[0]), node("Sub", ["features", "mean"], ["end"])
    network(path, *nodes)
    assert "got other embeddings for 2 rows at once than for each alone, expected a network" in refused(path)
    quantised = [
        node("DynamicQuantizeLinear", ["features"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["end"]),
    ]
    network(path, *quantised)
    assert "(perhaps by the node q_node, a DynamicQuantizeLinear)" in refused(path)


def test_chance(path: Path) -> None:
    network(path, node("RandomNormalLike", ["features"], ["noise"]), node("Add", ["features", "noise"], ["end"]))
    told = refused(path)
    assert "got two answers for one row (perhaps by the node noise_node, a RandomNormalLike)" in told
    assert told.endswith("export the network in eval mode, without dropout and noise")


def test_training_mode(path: Path) -> None:
    each = {name: np.ones(DIM, np.float32) for name in ("s", "b", "m", "v")}
    normalised = helper.make_node(
        "BatchNormalization", ["features", "s", "b", "m", "v"], ["end", "rm", "rv"], "bn", training_mode=1
    )
    network(path, normalised, weights=each)
    assert "got the node bn (BatchNormalization) in training mode, expected inference" in refused(path)
    dropped = node("Dropout", ["features", "half", "yes"], ["end"])
    network(path, dropped, weights={"half": np.float32(0.5) * np.ones((), np.float32), "yes": np.array(True)})
    assert "got the node end_node (Dropout) in training mode" in refused(path)
    source.open(str(path), SourceOptions(embedding="features"))


def test_a_number_of_rows_that_cannot_be_made_free(path: Path) -> None:
    places = [
        *(*features(), node("Transpose", ["map"], ["last"], perm=[0, 2, 3, 1])),
        node("Reshape", ["last", "shape"], ["places"]),
        node("ReduceMean", ["places"], ["end"], axes=[0]),
    ]
    weights = {"shape": np.array([HEIGHT * WIDTH, DIM])}
    write(path, [images(rows=1)], places, [output("end", 1, DIM)], weights=weights)
    fixed = "got a network for 1 row at a time, fixed by the node {}, expected one for any number"
    assert fixed.format("places_node (Reshape)") in refused(path)
