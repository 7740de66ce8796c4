"""`--backbone-weights`: what is taken from a file of weights, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightning import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from training.__main__ import Options, main, run_training
from training.methods.simclr import SimClrConfig
from training.networks.backbones import build_backbone
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, RUN, RunError, load_model, open_run
from training.running.start import StartError, sha256_of_weights, start_from
from training.schedule import LoopConfig

SMALL = SimClrConfig(width=4, hidden_dim=16, projection_dim=8)


def small(seed: int, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone("small", 1, 8, width)[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if torch.equal(one[name], other[name])]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "encoder.", "module.backbone."])
def test_all_that_fits_in_name_and_shape_is_taken(
    suffix: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = small(1), small(2)
    file = tmp_path / f"weights{suffix}"
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()} | {"fc.weight": torch.ones(3, 3)}
    if suffix == ".pth":
        torch.save({"state_dict": weights, "epoch": 3}, file)
    else:
        save_file(weights, file)
    start_from(target, str(file))
    wanted = [name for name in source.state_dict() if not name.endswith("num_batches_tracked")]
    assert set(same(source.state_dict(), target.state_dict())) >= set(wanted)
    told = f"backbone_weights: {len(wanted)} of the backbone's {len(wanted)} tensors taken from {file}\n"
    assert capsys.readouterr().err == told


def test_weights_of_half_precision_are_taken_as_float32(tmp_path: Path) -> None:
    source, target = small(1), small(2)
    torch.save({name: tensor.half() for name, tensor in source.state_dict().items()}, tmp_path / "w.pt")
    start_from(target, str(tmp_path / "w.pt"))
    weight = target.state_dict()["0.weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, source.state_dict()["0.weight"], atol=1e-3, rtol=1e-2)


def test_torchvision_s_resnet18_fits_ours_and_a_stem_of_another_size_begins_at_random(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    large, _ = build_backbone("resnet18", 3, 96, None)
    start_from(large, str(tmp_path / "resnet18.pth"))
    assert "100 of the backbone's 100 tensors taken" in capsys.readouterr().err
    x = torch.rand(2, 3, 96, 96)
    resnet.fc = nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(large.eval()(x), resnet.eval()(x), atol=1e-5, rtol=1e-4)
    fine, _ = build_backbone("resnet18", 3, 32, None)
    start_from(fine, str(tmp_path / "resnet18.pth"))
    told = capsys.readouterr().err
    assert "99 of the backbone's 100 tensors taken" in told
    assert told.endswith("; conv1.weight is [64, 3, 7, 7] in it, [64, 3, 3, 3] here\n")


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return Path.touch, (Path("pwned"),)  # type: ignore[return-value]


def nan(file: Path) -> None:
    weights = small(1).state_dict()
    weights["0.weight"][0] = float("nan")
    torch.save(weights, file)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("w.pth", None, "expected a file of weights"),
        ("w.pth", lambda file: torch.save(small(1, width=8).state_dict(), file), "0 of the backbone's .* expected at"),
        ("w.pth", lambda file: torch.save({"a": torch.ones(2)}, file), r"0\.weight is not in it, .* and \d+ more"),
        ("w.pth", lambda file: torch.save([1, 2], file), "got no tensors in .*, expected weights by name"),
        ("w.pth", lambda file: torch.save({"w": Malicious()}, file), "which holds more than tensors or none at all"),
        ("w.pth", lambda file: file.write_bytes(b"hello"), "which holds more than tensors or none at all"),
        ("w.pth", lambda file: file.write_bytes(b""), "which holds more than tensors or none at all"),
        ("w.safetensors", lambda file: file.write_bytes(b"hello, world"), "w.safetensors: "),
        ("w.pth", nan, r"got 0\.weight in .* that is not finite, expected numbers"),
    ],
)
def test_what_cannot_be_started_with_is_one_sentence_and_leaves_nothing(
    name: str,
    write: Callable[[Path], Any] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if write is not None:
        write(tmp_path / name)
    assert main(["simclr", "--data", "digits", "--width", "4", "--backbone-weights", name]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: backbone_weights: ")
    with pytest.raises(StartError, match=message):
        raise StartError(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ([name] if write else [])


def train(folder: Path, start: Path, *, resume: bool = False, epochs: int = 3) -> Path:
    config = SimClrConfig(width=4, hidden_dim=16, projection_dim=8, backbone_weights=str(start))
    options = Options(run=folder, resume=resume, loop=LoopConfig(epochs=epochs, batch_rows=256, warmup_steps=0))
    return run_training("simclr", config, options)


def test_a_run_starts_from_another_run_s_weights_records_them_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = LoopConfig(epochs=1, batch_rows=256, seed=1)
    first = run_training("simclr", SMALL, Options(run=tmp_path / "first", loop=loop)) / CHECKPOINT
    begun: dict[str, Tensor] = {}
    original = Diary.on_train_epoch_start

    def keep(self: Diary, trainer: Any, pl_module: LightningModule) -> None:
        original(self, trainer, pl_module)
        if trainer.current_epoch == 0:
            begun.update({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})
        if trainer.current_epoch == 1 and not (tmp_path / "whole").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_epoch_start", keep)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", first)
    source = checkpoint.state_dict(first)
    encoder = {name for name in source if name.startswith("encoder.") and not name.endswith("num_batches_tracked")}
    assert encoder <= set(same(source, begun))
    assert "projection_head.0.weight" not in same(source, begun)
    given = json.loads((tmp_path / "stopped" / RUN).read_text())["given"]["backbone_weights"]
    assert given == {"name": CHECKPOINT, "sha256": sha256_of_weights(str(first)), "embedding_space": None}
    monkeypatch.undo()
    whole, stopped = train(tmp_path / "whole", first), train(tmp_path / "stopped", first, resume=True)
    one, other = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (whole, stopped))
    assert same(one, other) == list(one)
    first.write_bytes(first.read_bytes() + b"\0")
    with pytest.raises(RunError, match=r"another config: given.backbone_weights.sha256: got '\w+', expected '\w+'"):
        train(stopped, first, resume=True)
    load_model(whole, open_run(whole)[0])  # it holds its weights: the file may be gone
