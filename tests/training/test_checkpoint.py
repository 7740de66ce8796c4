from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from training import checkpoint
from training.checkpoint import CheckpointError


def test_a_tree_survives_with_its_types(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    tree: dict[str, Any] = {
        "state_dict": {"a": weight, "b": weight.T, "n": torch.tensor(3, dtype=torch.int64)},
        "optimizer": [{"state": {0: {"step": torch.tensor(1.0)}, 1: {}}, "betas": (0.9, 0.999), "lr": 1e-3}],
        "none": None,
        "flag": True,
        "text": "x",
    }
    checkpoint.save(tree, tmp_path / "c.safetensors")
    back = checkpoint.load(tmp_path / "c.safetensors")
    assert back["optimizer"][0]["betas"] == (0.9, 0.999)
    assert list(back["optimizer"][0]["state"]) == [0, 1]
    assert back["none"] is None
    assert back["flag"] is True
    for name in ("a", "b", "n"):
        torch.testing.assert_close(back["state_dict"][name], tree["state_dict"][name])


def test_what_only_a_pickle_could_hold_is_refused_by_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint.a\[1\]: got PosixPath, which only a pickle"):
        checkpoint.save({"a": [1, Path("x")]}, tmp_path / "c.safetensors")


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save({"a": 1}, path)

    def disk_full(tensors: object, beside: Path, metadata: object) -> None:
        beside.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", disk_full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save({"a": 2}, path)
    assert checkpoint.load(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="without 'latentserve_checkpoint'"):
        checkpoint.load(tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="d.safetensors"):
        checkpoint.load(tmp_path / "d.safetensors")
