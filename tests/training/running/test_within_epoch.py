"""Runs that go on within an epoch, of every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.running import ranks
from tests.training.taught import write_teacher
from training.__main__ import quiet_lightning
from training.data.rows import Data
from training.methods import METHODS
from training.running import checkpoint
from training.running.diary import Diary, TrainingDiverged
from training.running.given import survey
from training.running.loop import Trained, train
from training.running.run import CHECKPOINT
from training.running.within_epoch import KEPT, WithinEpoch
from training.schedule import LoopConfig

EACH_STEP = LoopConfig(epochs=2, batch_rows=ranks.BATCH_ROWS, warmup_steps=2, save_minutes=1e-9)
WHOLE_EPOCHS = replace(EACH_STEP, save_minutes=1e9)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    write_teacher(folder / ranks.TEACHER)
    return folder


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_lightning()


def run(case: str, teacher: Path, folder: Path, loop: LoopConfig) -> Trained:
    folder.mkdir(exist_ok=True)
    rows: Data = ranks.data(METHODS[ranks.CASES[case][0]])
    module = ranks.build(case, teacher, loop)
    survey(module, rows.train.values)
    return train(module, rows, loop, folder / CHECKPOINT, {"case": case})


def stop_at(epoch: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ctrl-C after a step of an epoch, before it is saved."""
    original = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, module: Any, outputs: Any, given: Any, batch_idx: int) -> None:
        original(self, trainer, module, outputs, given, batch_idx)
        if (trainer.current_epoch, batch_idx) == (epoch, batch):
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    return lambda: monkeypatch.setattr(Diary, "on_train_batch_end", original)


def assert_same(one: Path, other: Path) -> None:
    weights, others = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("case", METHODS)
def test_a_run_that_goes_on_within_an_epoch_ends_with_the_same_bits(
    case: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(case, teacher, tmp_path / "whole", WHOLE_EPOCHS)
    undo = stop_at(1, 3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(case, teacher, tmp_path / "stopped", EACH_STEP)
    undo()
    saved = checkpoint.load(tmp_path / "stopped" / CHECKPOINT)
    assert saved["epoch"] == 1
    assert saved[KEPT]["done"] == 3
    resumed = run(case, teacher, tmp_path / "stopped", WHOLE_EPOCHS)
    assert_same(tmp_path / "whole", tmp_path / "stopped")
    assert resumed.history == whole.history
    assert resumed.test == whole.test


@pytest.mark.parametrize("stops", [[(0, 0), (0, 1)], [(0, 1), (0, 2), (0, 2), (0, 4), (1, 0), (1, 4)]])
def test_a_run_may_be_stopped_again_and_again(
    stops: list[tuple[int, int]], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything was saved, twice at one step, at the last step of an epoch and at the first one of the next."""
    whole = run("simclr", teacher, tmp_path / "whole", WHOLE_EPOCHS)
    for epoch, batch in stops:
        undo = stop_at(epoch, batch, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run("simclr", teacher, tmp_path / "stopped", EACH_STEP)
        undo()
    assert run("simclr", teacher, tmp_path / "stopped", EACH_STEP).history == whole.history
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_rows_are_saved_once_an_interval_and_the_last_step_is_left_to_the_epoch_s_end(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []
    original = checkpoint.save

    def save(tree: dict[str, Any], path: Path, of: dict[str, Any]) -> None:
        saved.append((tree["epoch"], KEPT in tree))
        original(tree, path, of)

    monkeypatch.setattr(checkpoint, "save", save)
    run("vae", teacher, tmp_path / "each", EACH_STEP)
    within = ranks.NUM_STEPS - 1
    assert saved == [*[(0, True)] * within, (0, False), *[(1, True)] * within, (1, False)]
    saved.clear()
    run("vae", teacher, tmp_path / "never", WHOLE_EPOCHS)
    assert saved == [(0, False), (1, False)]


def test_figures_of_an_epoch_that_goes_on_are_means_of_all_of_it(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test of every method compares would not be noticed if the sums were lost in both."""
    whole = run("vae", teacher, tmp_path / "whole", WHOLE_EPOCHS)
    undo = stop_at(1, 3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("vae", teacher, tmp_path / "stopped", EACH_STEP)
    undo()
    original = WithinEpoch.on_load_checkpoint

    def forget(self: WithinEpoch, trainer: Any, module: Any, saved: dict[str, Any]) -> None:
        original(self, trainer, module, saved)
        self._sums = {}

    monkeypatch.setattr(WithinEpoch, "on_load_checkpoint", forget)
    forgot = run("vae", teacher, tmp_path / "stopped", WHOLE_EPOCHS)
    assert forgot.history[1]["loss"] != whole.history[1]["loss"]


def test_weights_that_are_no_numbers_are_not_saved_within_an_epoch(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = METHODS["vae"].module

    def poisoned(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            next(self.encoder.parameters()).data.fill_(torch.inf)  # after the step: its loss was still a number

    monkeypatch.setattr(module, "on_train_batch_end", poisoned)
    with pytest.raises(TrainingDiverged, match="the checkpoint that was saved last is kept"):
        run("vae", teacher, tmp_path / "run", EACH_STEP)
    assert all(torch.isfinite(one).all() for one in checkpoint.state_dict(tmp_path / "run" / CHECKPOINT).values())


def test_the_seconds_of_an_epoch_that_goes_on_are_counted(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = stop_at(0, 3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("vae", teacher, tmp_path / "run", EACH_STEP)
    undo()
    (seconds,) = (
        state["seconds"]
        for state in checkpoint.load(tmp_path / "run" / CHECKPOINT)["callbacks"].values()
        if "seconds" in state
    )
    assert seconds > 0


def test_minutes_are_above_zero() -> None:
    for minutes in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"save_minutes: got .*, expected above 0"):
            LoopConfig(save_minutes=minutes)
