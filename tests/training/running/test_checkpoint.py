from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from training.running import checkpoint
from training.running.checkpoint import CheckpointError

RUN = {"method": "vae", "loop": {"epochs": 3, "seed": 0}}


def test_a_tree_survives_with_its_types(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    tree: dict[str, Any] = {
        "state_dict": {"a": weight, "b": weight.T, "n": torch.tensor(3, dtype=torch.int64)},
        "optimizer": [{"state": {0: {"step": torch.tensor(1.0)}, 1: {}}, "betas": (0.9, 0.999), "lr": 1e-3}],
        "none": None,
        "flag": True,
        "text": "x",
    }
    checkpoint.save(tree, tmp_path / "c.safetensors", RUN)
    back = checkpoint.load(tmp_path / "c.safetensors")
    assert back["optimizer"][0]["betas"] == (0.9, 0.999)
    assert list(back["optimizer"][0]["state"]) == [0, 1]
    assert back["none"] is None
    assert back["flag"] is True
    for name in ("a", "b", "n"):
        torch.testing.assert_close(back["state_dict"][name], tree["state_dict"][name])


def test_what_only_a_pickle_could_hold_is_rejected_by_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint.a\[1\]: got PosixPath, which only a pickle"):
        checkpoint.save({"a": [1, Path("x")]}, tmp_path / "c.safetensors", RUN)


@pytest.mark.parametrize("saved_before", [True, False])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, saved_before: bool) -> None:
    path = tmp_path / "c.safetensors"
    if saved_before:
        checkpoint.save({"a": 1}, path, RUN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # no file may grow longer
    try:
        with pytest.raises(CheckpointError) as error:
            checkpoint.save({"a": torch.zeros(100_000)}, path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = "the one before it is whole" if saved_before else "none was saved before"
    assert f"cannot be saved, {kept}: " in str(error.value)
    assert "make room, then --resume" in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"] * saved_before
    if saved_before:
        assert checkpoint.load(path) == {"a": 1}


def test_a_checkpoint_of_another_run_or_version_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save({"a": 1}, path, RUN)
    assert checkpoint.load(path, RUN) == {"a": 1}
    other = {"method": "cpc", "loop": {"epochs": 4, "seed": 0}}
    with pytest.raises(
        CheckpointError, match=r"of another run: method: got 'vae', expected 'cpc'; loop.epochs: got 3, expected 4$"
    ):
        checkpoint.load(path, other)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="got format 1, this release reads 2"):
        checkpoint.load(path)


def test_a_file_of_somebody_else_is_rejected(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="without 'latentserve_checkpoint'"):
        checkpoint.load(tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="d.safetensors"):
        checkpoint.load(tmp_path / "d.safetensors")
