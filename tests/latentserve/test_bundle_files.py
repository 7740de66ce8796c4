from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from latentserve.bundle_files import NotOnnx, check_file, check_graph, first_external
from latentserve.errors import BundleError

INT64 = TensorProto.INT64


def tensor(*, external: bool, name: str = "w") -> TensorProto:
    made = helper.make_tensor(name, TensorProto.FLOAT, [2], np.ones(2, np.float32))
    if external:
        made.ClearField("float_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="w.bin")
    return made


def graph(nodes: list[Any] | None = None, **more: Any) -> Any:
    return helper.make_graph(nodes or [], "g", [], [], **more)


def saved(path: Path, made: Any, **more: Any) -> Path:
    path.write_bytes(helper.make_model(made, **more).SerializeToString())
    return path


def places(one: TensorProto) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A model with the tensor at each place where ONNX lets one stand."""
    sparse = helper.make_sparse_tensor(one, helper.make_tensor("i", INT64, [2], [0, 1]), [4])
    constant = helper.make_node("Constant", [], ["c"], value=one)
    listed = helper.make_node("Own", [], ["l"])
    listed.attribute.append(helper.make_attribute("many", [one]))
    branch = helper.make_node("If", ["x"], ["y"], then_branch=graph([constant]), else_branch=graph())
    function = helper.make_function("own", "F", [], ["c"], [constant], [helper.make_opsetid("", 20)])
    return {
        "initializer": (graph(initializer=[one]), {}),
        "sparse initializer": (graph(sparse_initializer=[sparse]), {}),
        "constant": (graph([constant]), {}),
        "list of tensors": (graph([listed]), {}),
        "branch": (graph([branch]), {}),
        "function": (graph(), {"functions": [function]}),
    }


@pytest.mark.parametrize("place", list(places(tensor(external=False))))
def test_weights_in_another_file_are_found_wherever_they_are_named(tmp_path: Path, place: str) -> None:
    made, more = places(tensor(external=True))[place]
    path = saved(tmp_path / "g.onnx", made, **more)
    assert first_external(path) == "w"
    with pytest.raises(BundleError, match="g.onnx: got a graph that keeps the tensor 'w' in another file"):
        check_graph(path)
    made, more = places(tensor(external=False))[place]
    check_graph(saved(tmp_path / "g.onnx", made, **more))


def test_what_is_no_onnx_is_said_to_be_none(bundle_folder: Path, tmp_path: Path) -> None:
    whole = (bundle_folder / "encoder.onnx").read_bytes()
    path = tmp_path / "g.onnx"
    for bytes_ in (b"", whole[:-1], whole[: len(whole) // 2], b"\xff" * 40, b"\x0b" * 40):
        path.write_bytes(bytes_)
        with pytest.raises(NotOnnx):
            first_external(path)
        with pytest.raises(BundleError, match="no ONNX"):
            check_graph(path)
    path.write_bytes(whole)
    with pytest.raises(BundleError, match=r"suffix '.ort', expected '.onnx'"):
        check_graph(path.rename(tmp_path / "g.ort"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling link"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "golden.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nowhere")
    with pytest.raises(BundleError, match="missing|no file"):
        check_file(tmp_path, path.name, "00")
