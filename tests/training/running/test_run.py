"""Runs as a user starts, stops and resumes them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from latentserve.inputs import Resize
from latentserve.lock import held
from training.__main__ import Options, main, run_training
from training.data import AudioShape, ImageShape
from training.methods.simclr import SimClr, SimClrConfig
from training.methods.vae import Vae, VaeConfig
from training.running import checkpoint
from training.running import diary as diary_module
from training.running import loop as loop_module
from training.running.batches import Batches
from training.running.checkpoint import CheckpointError
from training.running.diary import Diary, TrainingDiverged
from training.running.run import CHECKPOINT, RESULT, RUN, RunError, load_model, open_run
from training.schedule import LoopConfig

SMALL = VaeConfig(latent_dim=4, embedding_dim=16, width=4)


def train(folder: Path, *, epochs: int = 4, seed: int = 0, resume: bool = False, config: VaeConfig = SMALL) -> Path:
    loop = LoopConfig(epochs=epochs, batch_rows=256, seed=seed)
    return run_training("vae", config, Options(run=folder, resume=resume, loop=loop))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.state_dict(folder / CHECKPOINT)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def interrupt_in_epoch(epoch: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> Callable[[], None]:
    original = Diary.on_train_batch_end

    def stop(
        self: Diary, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        original(self, trainer, pl_module, outputs, batch, batch_idx)
        if trainer.current_epoch == epoch and batch_idx == 1:
            raise error

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    return lambda: monkeypatch.setattr(Diary, "on_train_batch_end", original)


@pytest.fixture
def python_hears_ctrl_c() -> Iterator[None]:
    """Python's own handler, whatever the process of the tests has."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_hears_ctrl_c")
def test_ctrl_c_that_python_drops_stops_the_training_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the signal comes while an object is thrown away."""
    original, batches = Diary.on_train_epoch_start, list[int]()
    monkeypatch.setattr(Diary, "on_train_batch_end", lambda *given: batches.append(given[-1]))

    def dropped(self: Diary, trainer: Any, module: Any) -> None:
        original(self, trainer, module)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Diary, "on_train_epoch_start", dropped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    assert batches == [0]


@pytest.mark.usefixtures("python_hears_ctrl_c")
def test_ctrl_c_that_python_drops_after_the_last_batch_is_heard_before_the_test_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dropped(*_: Any) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Diary, "on_train_end", dropped)
    monkeypatch.setattr("training.running.loop._tested", lambda *_: pytest.fail("went on"))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")


def test_ctrl_c_loses_at_most_an_epoch_and_resume_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    undo = interrupt_in_epoch(2, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    undo()
    stopped = tmp_path / "stopped"
    assert checkpoint.load(stopped / CHECKPOINT)["epoch"] == 1  # epochs 0 and 1 are safe
    with pytest.raises(RunError, match="not finished; go on with --resume"):
        open_run(stopped)
    train(stopped, resume=True)
    assert_equal(weights(whole), weights(stopped))
    _, trained = open_run(stopped)
    assert [row["epoch"] for row in trained.history] == [0, 1, 2, 3]
    assert trained.history == open_run(whole)[1].history


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    first, again, other = (train(tmp_path / name, epochs=1, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert_equal(weights(first), weights(again))
    assert not torch.equal(weights(first)["encoder.0.weight"], weights(other)["encoder.0.weight"])


def test_training_learns(run_folder: Path) -> None:
    history = open_run(run_folder)[1].history
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Vae.training_step

    def poisoned(self: Vae, x_BHWC: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = original(self, x_BHWC, batch_idx)
        return loss * float("nan") if self.current_epoch == 1 else loss

    monkeypatch.setattr(Vae, "training_step", poisoned)
    with pytest.raises(
        TrainingDiverged,
        match=r"the loss is nan at step \d+ \(epoch 1, learning rate .*\); the checkpoint that was saved last",
    ):
        train(tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / CHECKPOINT)["epoch"] == 0
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(self: Vae, outputs: Any, batch: Any, batch_idx: int) -> None:
        next(self.encoder.parameters()).data.fill_(torch.inf)  # after the step: its loss was still a number

    monkeypatch.setattr(Vae, "on_train_batch_end", poisoned)
    monkeypatch.setattr(Vae, "training_step", lambda self, x_BHWC, batch_idx: list(self.parameters())[-1].sum())
    with pytest.raises(TrainingDiverged, match=r"encoder.0.weight is not finite .*none was saved before"):
        train(tmp_path / "run")
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_checkpoint_that_is_not_this_runs_is_rejected(run_folder: Path, tmp_path: Path) -> None:
    run, _ = open_run(run_folder)
    with pytest.raises(CheckpointError, match=r"of another run: num_train_rows: got \d+, expected 3$"):
        load_model(run_folder, replace(run, num_train_rows=3))
    shutil.copy(run_folder / CHECKPOINT, tmp_path)
    with pytest.raises(RunError, match=r"got last.safetensors without run.json"):
        train(tmp_path, resume=True)
    other = train(tmp_path / "other", epochs=1)
    shutil.copy(run_folder / CHECKPOINT, other)
    with pytest.raises(CheckpointError, match=r"of another run: .*loop.epochs"):
        train(other, epochs=1, resume=True)


def test_a_run_is_not_overwritten_nor_resumed_as_another(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match="there is a run already; pass --resume"):
        train(folder, epochs=1)
    with pytest.raises(RunError, match=r"has another config: config.latent_dim: got 5, expected 4$"):
        train(folder, epochs=1, resume=True, config=replace(SMALL, latent_dim=5))
    before = weights(folder)
    train(folder, epochs=1, resume=True)  # finished: nothing to do
    assert_equal(before, weights(folder))


def test_no_file_of_a_run_is_a_pickle(run_folder: Path) -> None:
    assert sorted(path.name for path in run_folder.iterdir()) == [CHECKPOINT, RESULT, RUN]


def test_an_unknown_key_or_method_in_a_run_is_rejected(run_folder: Path, tmp_path: Path) -> None:
    run, _ = open_run(run_folder)
    with pytest.raises(RunError, match="method: got 'gan', expected one of .*'vae'"):
        replace(run, method="gan").build()
    with pytest.raises(RunError, match="unknown key 'latent_dims'"):
        replace(run, config={"latent_dims": 3}).build()
    (tmp_path / RUN).write_text(json.dumps({"epochs": 3}))
    with pytest.raises(RunError, match="unknown key 'epochs'"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"got no run.json there"):
        open_run(tmp_path / "nowhere")


def test_a_method_refuses_rows_of_another_modality(run_folder: Path) -> None:
    run, _ = open_run(run_folder)
    with pytest.raises(RunError, match="data: digits is audio, vae takes image"):
        replace(run, shape=AudioShape(8000, 8000)).build()


def test_data_that_changed_since_is_rejected(run_folder: Path) -> None:
    run, _ = open_run(run_folder)
    with pytest.raises(RunError, match="not those of the run any more"):
        replace(run, data_sha256="0").load_data()


def test_the_model_is_loaded_in_eval_mode(run_folder: Path) -> None:
    model = load_model(run_folder, open_run(run_folder)[0])
    assert not any(module.training for module in model.modules())


def test_every_epoch_sees_each_row_at_most_once_in_an_order_of_its_own() -> None:
    rows = torch.arange(10)
    epochs = [torch.cat(list(Batches(rows, 3, 0, epoch))).tolist() for epoch in (0, 0, 1)]
    assert len(epochs[0]) == len(set(epochs[0])) == 9
    assert epochs[0] == epochs[1] != epochs[2]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "expected one of "),
        (["gan"], 2, "got 'gan', expected one of "),
        (["vae", "--data", "cifar11"], 1, "got 'cifar11'"),
        (["vae", "--data", "folder:/nowhere"], 1, "expected a folder"),
        (["vae", "--data", "folder:/caf\udce9"], 1, r"got '/caf\udce9', expected a folder"),
        (["vae", "--run", "r\udcfcn"], 1, r"run: got r\xfcn, expected a name in UTF-8"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    out = capsys.readouterr()
    assert said in out.out + out.err


def test_an_unknown_option_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["vae", "--latent-dims", "3"])
    assert stopped.value.code == 2
    assert "--latent-dim" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, as its compiler is loaded
def test_an_encoder_is_compiled_in_place_and_keeps_the_names_of_its_weights() -> None:
    module = SimClr(SimClrConfig(width=4), LoopConfig(), ImageShape(8, 1))
    names = list(module.state_dict())
    loop_module._compile(module)
    assert module.encoder._compiled_call_impl is not None
    assert list(module.state_dict()) == names
    with pytest.raises(ValueError, match="compiled: got True, expected False: LightningModule has no one encoder"):
        loop_module._compile(LightningModule())


def test_on_a_gpu_the_loss_is_checked_now_and_then_and_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To check is to wait for the device; a loss that was no number between two checks is found at the next one."""
    assert [step for step in range(120) if diary_module.is_checked("cuda", step)] == [0, 50, 100]
    assert all(diary_module.is_checked("cpu", step) for step in range(120))
    monkeypatch.setattr(diary_module, "is_checked", lambda device, step: step % 3 == 0)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    trainer: Any = SimpleNamespace(
        current_epoch=0, fit_loop=SimpleNamespace(total_batch_idx=0), optimizers=[optimizer], callback_metrics={}
    )
    module: Any = SimpleNamespace(state_dict=dict)
    for losses, fails_at in (([1.0, float("nan"), 1.0, 1.0], 3), ([1.0, float("inf")], None)):
        diary = diary_module.Diary(0)
        diary.on_train_epoch_start(trainer, module)
        for step, loss in enumerate(losses):
            if step == fails_at:
                with pytest.raises(TrainingDiverged, match="the loss was not finite"):
                    diary.on_train_batch_end(trainer, module, torch.tensor(loss), None, step)
                break
            diary.on_train_batch_end(trainer, module, torch.tensor(loss), None, step)
        else:
            with pytest.raises(TrainingDiverged, match="the loss was not finite"):
                diary.on_train_epoch_end(trainer, module)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with options of its own in the default place, its result not written yet."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "mine"
    given = ["--data", "digits[label=0,1]", "--epochs", "1", "--batch-rows", "64", "--width", "4", "--latent-dim", "3"]
    assert main(["vae", *given, "--run", str(folder)]) == 0
    (folder / "result.json").unlink()
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resume"],
        ["--resume", "--run", "runs/mine"],
        ["vae", "--resume", "--run=runs/mine"],
        ["vae", "--run", "runs/mine", "--resume", "--width", "4"],
    ],
)
def test_resume_alone_finds_what_it_goes_on_with(stopped: Path, arguments: list[str]) -> None:
    assert main(arguments) == 0
    run, trained = open_run(stopped)
    assert (run.data, run.loop.batch_rows, run.config["width"], trained.epochs) == ("digits[label=0,1]", 64, 4, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "--run", "runs/mien"], "resume: got no run in runs/mien, expected one of .*: runs/mine"),
        (["vae", "--resume"], "resume: got no run in runs/vae-digits-seed0, expected one of .*: runs/mine"),
        (["simclr", "--resume", "--run", "runs/mine"], "got method simclr, expected vae"),
        (["--resume", "--run", "runs/mine", "--width", "5"], r"another config: config.width: got 5, expected 4"),
        (["vae", "--run", "runs/mine"], "there is a run already; pass --resume"),
    ],
)
def test_what_cannot_be_gone_on_with_is_said(
    stopped: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert re.search(said, capsys.readouterr().err)
    assert sorted(path.name for path in stopped.parent.iterdir()) == ["mine"]


def test_two_trainings_cannot_share_a_folder(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (stopped / CHECKPOINT).read_bytes()
    with held(stopped):
        assert main(["--resume", "--run", str(stopped)]) == 1
    assert "another training is at work there" in capsys.readouterr().err
    assert (stopped / CHECKPOINT).read_bytes() == before
    assert main(["--resume", "--run", str(stopped)]) == 0


def test_a_run_of_a_folder_from_before_there_was_a_rule_is_cropped_as_it_was(
    tmp_path: Path, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.loading.OWN_RESIZE", Resize())
    (tmp_path / "photos").mkdir()
    for i in range(20):
        image = np.random.default_rng(i).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        (tmp_path / "photos" / f"{i}.png").write_bytes(encode(image))
    spec = f"folder:{tmp_path}/photos"
    loop = LoopConfig(epochs=1, batch_rows=8)
    options = Options(data=spec, image_size="8", run=tmp_path / "run", loop=loop)
    folder = run_training("vae", SMALL, options)
    said = json.loads((folder / RUN).read_text())
    del said["shape"]["width"], said["shape"]["resize"]
    (folder / RUN).write_text(json.dumps(said))
    run, _ = open_run(folder)
    assert run.load_data().shape == ImageShape(8, 3)
    load_model(folder, run)
    (folder / RESULT).unlink()
    monkeypatch.undo()
    assert main(["--resume", "--run", str(folder)]) == 0
    with pytest.raises(RunError, match=r"shape.resize.*: got .*'fit'.*, expected None"):
        run_training("vae", SMALL, replace(options, resize="fit", resume=True))


def test_a_run_of_images_that_are_not_square_is_read_and_resumed(tmp_path: Path) -> None:
    options = Options(image_size="8x12", resize="fit", run=tmp_path / "run", loop=LoopConfig(epochs=1, batch_rows=512))
    folder = run_training("vae", SMALL, options)
    run, _ = open_run(folder)
    assert run.shape == ImageShape(8, 1, width=12, resize=Resize("fit"))
    assert run.load_data().train.values.shape[1:] == (8, 12, 1)
    decoded = cast(Vae, load_model(folder, run)).decode(torch.zeros(1, 4))
    assert decoded.shape == (1, 1, 8, 12)
    assert main(["--resume", "--run", str(folder)]) == 0


def test_a_run_of_before_there_was_a_compiler_is_read_and_resumed(tmp_path: Path) -> None:
    """Its run.json and its checkpoint know nothing of `compiled`, `group_by`, and shapes that are not square."""
    folder = train(tmp_path / "run", epochs=1)
    said = json.loads((folder / RUN).read_text())
    assert said["loop"].pop("compiled") is False
    del said["group_by"]
    assert (said["shape"].pop("width"), said["shape"].pop("resize")["how"]) == (None, "crop")
    (folder / RUN).write_text(json.dumps(said))
    run, _ = open_run(folder)
    assert run.identity["shape"] == said["shape"] == {"image_size": 8, "channels": 1, "modality": "image"}
    load_model(folder, run)
    assert main(["--resume", "--run", str(folder)]) == 0
    assert "compiled" not in run.identity["loop"]
    assert replace(run, loop=replace(run.loop, compiled=True)).identity == run.identity
