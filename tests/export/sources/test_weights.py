from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.sources.source import SourceError
from export.sources.weights import of_network, put_weights, read_weights
from tests.export.sources import tiny


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code of the file's was run",)


@pytest.mark.parametrize("held", ["plain", "state_dict", "model", "model_state_dict", "net", "wrapped", "safetensors"])
def test_weights_are_found_wherever_programs_put_them(held: str, tmp_path: Path) -> None:
    weights = tiny.net().state_dict()
    file = tmp_path / ("x.safetensors" if held == "safetensors" else "x.pth")
    if held == "safetensors":
        save_file(weights, file)
    elif held == "wrapped":
        torch.save({"state_dict": {f"module._orig_mod.{name}": one for name, one in weights.items()}}, file)
    else:
        beside = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
        torch.save(weights if held == "plain" else {held: weights} | beside, file)
    model = tiny.net()
    nn.init.zeros_(model.get_parameter("conv.weight"))
    put_weights(model, read_weights(file), ("x", "net"))
    torch.testing.assert_close(model.get_parameter("conv.weight"), weights["conv.weight"])


def test_a_file_is_what_its_bytes_are_whatever_it_is_called(tmp_path: Path) -> None:
    weights = tiny.net().state_dict()
    save_file(weights, tmp_path / "x.pth")
    torch.save(weights, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        assert read_weights(tmp_path / name).keys() == weights.keys()


@pytest.mark.parametrize("before", ["model.", "encoder.", "module.student.backbone."])
def test_a_network_that_is_a_part_of_a_checkpoint_is_taken_out_of_it(before: str) -> None:
    weights = tiny.net().state_dict()
    held = {before + name: one for name, one in weights.items()} | {"criterion.weight": torch.ones(2)}
    found = of_network(held, tiny.net(), Path("x"))
    assert found.keys() == weights.keys()
    others = {f"other.{name}": one for name, one in held.items() if name.endswith("bias")}
    assert of_network(others, tiny.net(), Path("x")) == others  # most is missing: it is told by its whole names


def test_a_checkpoint_that_has_the_network_twice_is_refused() -> None:
    weights = tiny.net().state_dict()
    held = {before + name: one for before in ("encoder_q.", "encoder_k.") for name, one in weights.items()}
    with pytest.raises(
        SourceError, match=r"x: got the network 2 times in it \(encoder_q\., encoder_k\.\), expected one"
    ):
        of_network(held, tiny.net(), Path("x"))


def test_a_pickle_that_wants_code_is_refused_and_runs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": tiny.net().state_dict(), "trainer": Code()}, tmp_path / "x.pth")
    with pytest.raises(SourceError, match=r"its pickle wants code \(builtins\.print\), which is not run"):
        read_weights(tmp_path / "x.pth")
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("data", [b"", b"hello", bytes(1000), b"<html>404</html>", b"cut"])
def test_a_file_that_is_no_checkpoint_is_told_in_a_sentence(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    if data == b"cut":
        torch.save({str(number): torch.ones(99) for number in range(99)}, tmp_path / name)
        os.truncate(tmp_path / name, 5000)
    with pytest.raises(SourceError, match="is no checkpoint that can be read") as refused:
        read_weights(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)  # torch's advice: run whatever the file says
    assert "html" not in str(data) or "it begins with b'<html>404" in str(refused.value)


def test_what_has_no_tensors_is_told(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(SourceError, match="got no tensors in it but epoch, expected a state_dict"):
        read_weights(tmp_path / "x.pth")
    torch.save([1], tmp_path / "y.pth")
    with pytest.raises(SourceError, match="got a list in it, expected a state_dict"):
        read_weights(tmp_path / "y.pth")
    with pytest.raises(SourceError, match="got no file there"):
        read_weights(tmp_path / "z.pth")


def test_weights_of_another_network_are_told_by_their_names() -> None:
    weights = tiny.net().state_dict()
    weights["conv.weight"] = weights["conv.weight"][:4]
    weights["head.weight"] = weights.pop("norm.weight")
    weights["fc.weight"] = torch.zeros(2)
    told = (
        r"x: its weights are not those of net: 1 of 7 tensors are missing \(norm.weight\);"
        r" 1 are left over \(head.weight\); 1 have another shape \(conv.weight is \[4, .*\], not \[8, "
    )
    with pytest.raises(SourceError, match=told):
        put_weights(tiny.net(), weights, ("x", "net"), ["fc."])


def test_a_counter_of_batches_may_be_missing() -> None:
    weights = tiny.net().state_dict()
    del weights["norm.num_batches_tracked"]
    put_weights(tiny.net(), weights, ("x", "net"))
