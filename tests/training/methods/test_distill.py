from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from sklearn.decomposition import PCA
from torch.nn import functional as F

from latentserve import bundle, records
from tests.training.taught import write_teacher
from training.__main__ import Options, run_training
from training.augmentations import STILL
from training.data import ImageShape
from training.methods.distill import Distill, DistillConfig, Space, cosine_loss, relational_loss
from training.running import checkpoint
from training.running.diary import Diary
from training.running.given import Given
from training.running.run import CHECKPOINT, RESULT, RUN, Run, RunError, load_model, open_run
from training.schedule import LoopConfig
from training.teacher import TARGETS, Teacher

SMALL = DistillConfig(width=4, target_dim=8, relation=0.5, num_anchors=64)


def train(
    folder: Path, teacher: Path | str, *, config: DistillConfig = SMALL, resume: bool = False, **loop: Any
) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(**{"epochs": 3, "batch_rows": 256} | loop))
    return run_training("distill", replace(config, teacher=str(teacher)), options)


def unit(rows: int, dim: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim), dim=1)


def test_the_cosine_loss_is_its_equation() -> None:
    torch.manual_seed(0)
    student, teacher = unit(7, 5), unit(7, 5)
    expected = np.mean([1 - float(s @ t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)])
    assert cosine_loss(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    assert cosine_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(-teacher, teacher).item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_the_relational_loss_is_the_divergence_that_scipy_computes(temperature: float) -> None:
    torch.manual_seed(1)
    student, teacher, anchors = unit(6, 4), unit(6, 4), unit(9, 4)
    p = softmax(teacher.double().numpy() @ anchors.double().numpy().T / temperature, axis=1)
    q = softmax(student.double().numpy() @ anchors.double().numpy().T / temperature, axis=1)
    got = relational_loss(student, teacher, anchors, temperature).item()
    assert got == pytest.approx(rel_entr(p, q).sum(axis=1).mean(), rel=1e-4)
    assert relational_loss(teacher, teacher, anchors, temperature).item() == pytest.approx(0, abs=1e-6)


def test_targets_are_the_principal_components_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    u_NT = (rng.normal(size=(500, 6)) * [5, 4, 3, 2, 1, 0.5] + 3).astype(np.float32)
    got = Space.of(u_NT, 4).targets(u_NT)
    expected = F.normalize(torch.from_numpy(PCA(4).fit_transform(u_NT)).float(), dim=1)
    torch.testing.assert_close(got.abs(), expected.abs(), atol=1e-4, rtol=1e-3)  # a direction has no sign


def test_a_teacher_of_fewer_dimensions_leaves_zeros_behind_and_one_that_says_nothing_no_nan() -> None:
    u_NT = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    targets = Space.of(u_NT, 8).targets(u_NT)
    assert targets.shape == (50, 8)
    assert (targets[:, 3:] == 0).all()
    constant = np.ones((50, 3), np.float32)
    assert torch.isfinite(Space.of(constant, 2).targets(constant)).all()


def test_a_step_asks_for_the_target_of_each_row_and_the_embedding_is_h() -> None:
    torch.manual_seed(0)
    model = Distill(replace(SMALL, relation=0, views=STILL), LoopConfig(), ImageShape(8, 1)).eval()
    model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    x_BHWC, t_BP = torch.randint(0, 256, (5, 8, 8, 1), dtype=torch.uint8), unit(5, 8)
    x_BCHW = x_BHWC.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(model.encode(x_BCHW).embedding, model.encoder(x_BCHW))
    expected = (1 - F.cosine_similarity(model.head(model.encoder(x_BCHW)), t_BP)).mean()
    torch.testing.assert_close(model.training_step((x_BHWC, t_BP), 0), expected)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights, for images of 12 x 12."""
    return write_teacher(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "distill", teacher)


GOLDEN_LOSSES = (4.10075, 3.31968, 3.17538)


def test_the_loss_curve_of_a_seed_is_the_one_on_record(run: Path) -> None:
    """A change here is a change of the method, the views, the network or the loop: say so in the commit."""
    losses = [row["loss"] for row in open_run(run)[1].history]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_training_learns_what_the_teacher_makes_of_unseen_images(run: Path) -> None:
    _, trained = open_run(run)
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.test["test_teacher_found"] > 2 / 300  # chance: one in 300; three steps an epoch, three epochs


def stopped(folder: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in its second epoch."""
    original: Callable[..., None] = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Diary, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(folder, teacher)
    return folder


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    run: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path / "run", teacher, monkeypatch)
    targets = (folder / TARGETS).read_bytes()
    (folder / TARGETS).write_bytes(targets[: len(targets) // 2 + 1])  # as if it was killed while it wrote them
    train(folder, teacher, resume=True)
    whole, resumed = (checkpoint.state_dict(one / CHECKPOINT) for one in (run, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT, RESULT, RUN]  # the targets are gone


def test_the_run_names_its_teacher_and_is_not_resumed_with_another(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = write_teacher(tmp_path / "mine")
    folder = stopped(tmp_path / "run", mine, monkeypatch)
    given = records.read(Run, folder / RUN).given
    manifest = bundle.load(mine)
    assert given == {"teacher": Given("random/1", manifest.files["encoder.onnx"], manifest.embedding_space)}
    with pytest.raises(RunError, match=r"another config: config.teacher: got .*"):
        train(folder, teacher, resume=True)
    shutil.rmtree(mine)
    shutil.copytree(write_teacher(tmp_path / "other", seed=1), mine)
    with pytest.raises(RunError, match=r"another config: given.teacher.sha256: got '\w+', expected '\w+'"):
        train(folder, mine, resume=True)


def test_every_option_of_the_loss_changes_the_result(run: Path, tmp_path: Path, teacher: Path) -> None:
    def loss(name: str, **changed: Any) -> float:
        folder = train(tmp_path / name, teacher, config=replace(SMALL, **changed), epochs=1)
        return open_run(folder)[1].history[0]["loss"]

    losses = [
        open_run(run)[1].history[0]["loss"],
        loss("relation", relation=0.1),
        loss("temperature", temperature=1.0),
        loss("anchors", num_anchors=8),
        loss("target_dim", target_dim=4),
    ]
    assert len({round(value, 6) for value in losses}) == len(losses)


def test_the_student_needs_no_teacher_once_it_is_trained(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(_: str) -> Teacher:
        raise AssertionError("the teacher was opened")

    monkeypatch.setattr(Teacher, "open", refuse)
    trained = open_run(run)[0]
    model = load_model(run, trained)
    assert model.encode(torch.zeros(2, 1, 8, 8)).embedding.shape == (2, 8 * 2 * 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0, expected above 0"),
        ({"target_dim": 0}, "target_dim: got 0, expected above 0"),
        ({"relation": -1.0}, "relation: got -1.0, expected 0 or greater"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(**config)
