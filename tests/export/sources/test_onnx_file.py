"""`onnx:FILE`: what a bundle's graph says is what the file says of rows that are prepared by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import export.sources.onnx_file as source
from export.graphs import GraphRunner, Tensors, WritesItself
from export.sources.source import Network, SourceOptions
from latentserve.inputs import AudioInput, ImageInput
from tests.export.sources.files import (
    DIM,
    FLOAT,
    HEIGHT,
    WIDTH,
    encoder,
    features,
    images,
    node,
    output,
    vector,
    write,
)
from training.preprocessing import floats_from_rows

ROWS = np.random.default_rng(5).integers(0, 256, (9, HEIGHT, WIDTH, 3)).astype(np.uint8)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def opened(path: Path, **options: Any) -> Network:
    return source.open(str(path), SourceOptions(**options))


def runner(network: Network, folder: Path) -> GraphRunner:
    assert isinstance(network.model, WritesItself)
    return GraphRunner(folder, [network.model.write_graph(folder / "encoder.onnx")])


def both(network: Network, folder: Path, rows: Any = ROWS) -> tuple[Tensors, Tensors]:
    """What the bundle's graph says, and what the file says."""
    encoding = network.model.encode(floats_from_rows(torch.from_numpy(rows)))._asdict()
    asked = {name: one.numpy() for name, one in encoding.items() if one is not None}
    return runner(network, folder).with_patches().run(rows), asked


def direct(path: Path, x: NDArray[Any], name: str) -> NDArray[np.float32]:
    session = ort.InferenceSession(path)
    answer: NDArray[np.float32] = session.run([name], {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0]
    return answer


@pytest.mark.parametrize("scale", ["unit", "integers", "as it is", "uint8"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_layouts_orders_and_scales(tmp_path: Path, layout: str, order: str, scale: str) -> None:
    path = encoder(tmp_path / "net.onnx", layout, uint8=scale == "uint8")
    said: dict[str, dict[str, Any]] = {
        "unit": {"mean": MEAN, "std": STD},
        "integers": {"mean": (104.0, 117.0, 123.0)},
        "as it is": {"scale": "integers"},
        "uint8": {},
    }
    numbers = said[scale]
    x: NDArray[Any] = ROWS[..., ::-1] if order == "BGR" else ROWS
    if scale == "unit":
        x = (x.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    elif scale != "uint8":
        x = x.astype(np.float32) - np.array(numbers.get("mean", 0), np.float32)
    expected = direct(path, x.transpose(0, 3, 1, 2) if layout == "NCHW" else x, "features")
    network = opened(path, order=order, **numbers)
    assert isinstance(network.input, ImageInput)
    assert (network.input.height, network.input.width, network.input.channels) == (HEIGHT, WIDTH, 3)
    for got in both(network, tmp_path):
        np.testing.assert_allclose(got["embedding"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_mean_and_order_are_seen(tmp_path: Path) -> None:
    path = encoder(tmp_path / "net.onnx")
    said: list[dict[str, Any]] = [{}, {"mean": MEAN}, {"std": STD}, {"order": "BGR"}, {"scale": "integers"}]
    got = [both(opened(path, **one), tmp_path)[0]["embedding"] for one in said]
    for number, one in enumerate(got):
        assert all(np.abs(one - other).max() > 1e-2 for other in got[:number])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphRunner, NDArray[np.float32]]:
    """A graph of a file of one row at a time, and what it says of each row alone."""
    folder = tmp_path_factory.mktemp("onnx")
    run = runner(opened(encoder(folder / "net.onnx", rows=1), normalise=True), folder)
    return run, np.concatenate([run.run(ROWS[at : at + 1])["embedding"] for at in range(len(ROWS))])


@settings(max_examples=25, deadline=None)
@given(chosen=st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=40))
def test_co_batched_rows_do_not_change_a_row(alone: tuple[GraphRunner, NDArray[np.float32]], chosen: list[int]) -> None:
    run, expected = alone
    np.testing.assert_allclose(run.run(ROWS[chosen])["embedding"], expected[chosen], rtol=0, atol=1e-6)


def reshaped(path: Path, rows: int, shape: list[int]) -> Path:
    """As exporters write a network whose example had some rows: the number stands in a Reshape."""
    nodes = [*features(), node("Reshape", ["pooled", "shape"], ["flat"]), vector()[1]]
    given = [images(rows=rows)], nodes, [output("features", rows, DIM)]
    return write(path, *given, weights={"shape": np.array(shape, np.int64)})


@pytest.mark.parametrize(("rows", "shape"), [(1, [1, -1]), (1, [1, DIM]), (3, [3, DIM]), (3, [3, -1])])
def test_a_fixed_number_of_rows_is_made_free(tmp_path: Path, rows: int, shape: list[int]) -> None:
    path = reshaped(tmp_path / "net.onnx", rows, shape)
    x = ROWS.transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected = np.concatenate([direct(path, x[at : at + rows], "features") for at in range(0, len(x), rows)])
    for got in both(opened(path), tmp_path):
        np.testing.assert_allclose(got["embedding"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("expanded", [False, True])
def test_a_class_token_of_one_row_is_repeated(tmp_path: Path, expanded: bool) -> None:
    nodes = [
        *(*features(), node("Reshape", ["map", "shape"], ["columns"], allowzero=int(expanded))),
        node("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
        node("Concat", ["token", "tokens"], ["joined"], axis=1),
        node("Softmax", ["joined"], ["end"], axis=1),
    ]
    weights = {"shape": np.array([1, DIM, -1]), "token": np.full((1, 1, DIM), 0.5, np.float32)}
    if expanded:
        nodes.insert(0, node("Expand", ["class", "to"], ["token"]))
        nodes.insert(0, node("Identity", ["computed"], ["to"]))
        weights = weights | {"class": weights.pop("token"), "computed": np.array([1, 1, DIM])}
    given = [images(rows=1)], nodes, [output("end", 1, HEIGHT * WIDTH + 1, DIM)]
    write(path := tmp_path / "net.onnx", *given, weights=weights)
    x = ROWS.transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected = np.concatenate([direct(path, x[at : at + 1], "end")[:, 0] for at in range(len(x))])
    for got in both(opened(path, embedding="cls", patches="auto"), tmp_path):
        np.testing.assert_allclose(got["embedding"], expected, rtol=1e-5, atol=1e-6)


def test_names_of_the_file_may_be_those_of_a_bundle(tmp_path: Path) -> None:
    nodes = [*features(name="input"), node("Flatten", ["pooled"], ["embedding"])]
    write(path := tmp_path / "net.onnx", [images(name="input")], nodes, [output("embedding", "n", DIM)])
    got, asked = both(opened(path, patches="map"), tmp_path)
    np.testing.assert_allclose(got["embedding"], asked["embedding"], atol=1e-6)
    np.testing.assert_allclose(got["patches"].mean((1, 2)), got["embedding"], atol=1e-6)


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, 20, 23])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_map_is_pooled_in_every_opset(tmp_path: Path, layout: str, opset: int) -> None:
    write(path := tmp_path / "net.onnx", [images(layout)], features(layout), [output("pooled", "n", DIM, 1, 1)], opset)
    expected = both(opened(path), tmp_path)[0]["embedding"]
    assert expected.shape == (len(ROWS), DIM)
    for got in both(opened(path, embedding="map", normalise=True, patches="auto"), tmp_path):
        length = np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(got["embedding"], expected / length, atol=1e-6)
        np.testing.assert_allclose(got["patches"].mean((1, 2)), expected, atol=1e-5)
        assert got["patches"].shape == (len(ROWS), HEIGHT, WIDTH, DIM)


def tokens(path: Path, num_beside: int = 1) -> Path:
    """As a transformer: a vector for each square of 4 x 4 after some that are no places."""
    patchify = node("Conv", ["pixels", "patchify"], ["map"], strides=[4, 4])
    nodes = [
        patchify,
        node("Reshape", ["map", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["squares"], perm=[0, 2, 1]),
        node("ReduceMax", ["squares"], ["most"], axes=[1], keepdims=1),
        node("Concat", [*["most"] * num_beside, "squares"], ["hidden"], axis=1),
    ]
    kernel = np.random.default_rng(1).normal(size=(DIM, 3, 4, 4)).astype(np.float32)
    weights: dict[str, NDArray[Any]] = {"patchify": kernel, "flat": np.array([0, DIM, -1], np.int64)}
    return write(path, [images()], nodes, [output("hidden", "n", 6 + num_beside, DIM)], weights=weights)


@pytest.mark.parametrize("num_beside", [1, 5])
def test_tokens_are_pooled_and_lie_in_their_places(
    tmp_path: Path, num_beside: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tokens(tmp_path / "net.onnx", num_beside)
    hidden = direct(path, ROWS.transpose(0, 3, 1, 2).astype(np.float32) / 255, "hidden")
    mean = hidden[:, 1:].mean(1) if num_beside == 1 else hidden.mean(1)  # five of eleven could be anything
    expected = {"cls": hidden[:, 0], "mean": mean, "hidden:cls": hidden[:, 0]}
    for said, embedding in expected.items():
        for got in both(opened(path, embedding=said, patches="auto"), tmp_path):
            np.testing.assert_allclose(got["embedding"], embedding, atol=1e-5)
            places = got["patches"].reshape(len(ROWS), 6, DIM)
            np.testing.assert_allclose(places, hidden[:, num_beside:], atol=1e-5)
            assert got["patches"].shape == (len(ROWS), HEIGHT // 4, WIDTH // 4, DIM)
    assert ("the mean of hidden leaves out the first 1 of 7 tokens" in capsys.readouterr().err) == (num_beside == 1)


def test_an_inner_graph_keeps_the_weights_that_it_reads(tmp_path: Path) -> None:
    then = helper.make_graph([node("MatMul", ["flat", "head"], ["yes"])], "then", [], [output("yes")])
    other = helper.make_graph([node("Identity", ["flat"], ["no"])], "else", [], [output("no")])
    nodes = [
        *features(),
        node("Flatten", ["pooled"], ["flat"]),
        node("If", ["always"], ["features"], then_branch=then, else_branch=other),
        node("Relu", ["features"], ["end"]),
    ]
    head = np.eye(DIM, dtype=np.float32) * 3
    weights = {"always": np.array(True), "head": head}
    write(path := tmp_path / "net.onnx", [images()], nodes, [output("end", "n", DIM)], weights=weights)
    got = both(opened(path, embedding="features"), tmp_path)[0]
    np.testing.assert_allclose(got["embedding"], both(opened(path, embedding="flat"), tmp_path)[0]["embedding"] * 3)


def test_what_an_inner_tensor_does_not_need_is_cut_out(tmp_path: Path) -> None:
    path = encoder(tmp_path / "net.onnx")
    runner(opened(path, embedding="pooled:auto"), tmp_path)
    graph = onnx.load(tmp_path / "encoder.onnx").graph
    assert "head" not in {one.name for one in graph.initializer}
    assert not {"Flatten", "MatMul"} & {one.op_type for one in graph.node}


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("scale", ["unit", "integers"])
def test_waveforms(tmp_path: Path, scale: Literal["unit", "integers"], channel: bool) -> None:
    axes: list[str | int | None] = ["n", 1, "t"] if channel else ["n", "t"]
    kernel = np.random.default_rng(1).normal(size=(DIM, 1, 16)).astype(np.float32)
    name = "sound" if channel else "with_channel"
    nodes = [node("Conv", [name, "k"], ["conv"], strides=[8]), node("ReduceMean", ["conv"], ["out"], axes=[2])]
    if not channel:
        nodes.insert(0, node("Unsqueeze", ["sound", "one"], ["with_channel"]))
    given = helper.make_tensor_value_info("sound", FLOAT, axes)
    write(
        path := tmp_path / "net.onnx",
        [given],
        [*nodes, node("Flatten", ["out"], ["flat"])],
        [output("flat", "n", DIM)],
        weights={"k": kernel} | ({} if channel else {"one": np.array([1], np.int64)}),
    )
    rows = np.random.default_rng(2).integers(-(2**15), 2**15, (6, 200)).astype(np.int16)
    x = rows.astype(np.float32) / (32768 if scale == "unit" else 1)
    network = opened(path, sample_rate_hz=8000, num_samples=200, scale=scale)
    assert network.input == AudioInput(8000, 200)
    expected = direct(path, x[:, None] if channel else x, "flat")
    for got in both(network, tmp_path, rows):
        np.testing.assert_allclose(got["embedding"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_weights_beside_the_file_become_part_of_the_bundle(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole.onnx", tmp_path / "parted.onnx"
    encoder(whole)
    onnx.save(onnx.load(whole), parted, save_as_external_data=True, location="weights.bin", size_threshold=0)
    one, other = opened(whole), opened(parted)
    got = [both(each, tmp_path)[0]["embedding"] for each in (one, other)]
    np.testing.assert_array_equal(got[0], got[1])
    assert list(tmp_path.glob("weights.bin"))
    assert one.weights_sha256 != other.weights_sha256
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:-4] + b"\0\0\0\0")
    assert opened(parted).weights_sha256 != other.weights_sha256


def test_links_are_followed_as_a_cache_of_downloads_makes_them(tmp_path: Path) -> None:
    shown, kept = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    shown.mkdir(parents=True)
    kept.mkdir()
    model = onnx.load(encoder(tmp_path / "net.onnx"))
    expected = runner(opened(tmp_path / "net.onnx"), tmp_path).run(ROWS)["embedding"]
    onnx.save(model, shown / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    for name in ("net.onnx", "net.data"):
        (shown / name).rename(kept / f"0{name}")
        (shown / name).symlink_to(kept / f"0{name}")
    np.testing.assert_array_equal(runner(opened(shown / "net.onnx"), tmp_path).run(ROWS)["embedding"], expected)


def test_a_licence_is_that_of_the_file(tmp_path: Path) -> None:
    model = onnx.load(encoder(tmp_path / "net.onnx"))
    assert opened(tmp_path / "net.onnx").licence == ""
    helper.set_model_props(model, {"License": "MIT"})
    model.producer_name, model.producer_version = "tool", "2"
    onnx.save(model, tmp_path / "net.onnx")
    network = opened(tmp_path / "net.onnx")
    assert (network.licence, network.versions["producer"], network.versions["opset"]) == ("MIT", "tool 2", "17")


def test_the_same_file_is_the_same_graph_bit_for_bit(tmp_path: Path) -> None:
    path, written = encoder(tmp_path / "net.onnx"), []
    for _ in range(2):
        runner(opened(path), tmp_path)
        written.append((tmp_path / "encoder.onnx").read_bytes())
    assert written[0] == written[1]
    constant = numpy_helper.to_array(next(one for one in onnx.load(path).graph.initializer if one.name == "w"))
    assert constant.tobytes() in written[0]
