from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import GraphRunner
from export.parity import clear_rows
from latentserve import bundle
from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.sparse_autoencoder import (
    SparseAutoencoder,
    SparseAutoencoderConfig,
    largest,
    sparse_loss,
    squared_jacobian,
)
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = SparseAutoencoderConfig(num_units=32, k=4, served_factor=2.0)
L1 = SparseAutoencoderConfig(num_units=32, sparsity="l1", contractive=0.01)


def model(config: SparseAutoencoderConfig = SMALL, size: int = 8, channels: int = 1) -> SparseAutoencoder:
    torch.manual_seed(0)
    return SparseAutoencoder(config, LoopConfig(), ImageShape(size, channels))


def train(
    folder: Path, config: SparseAutoencoderConfig = SMALL, *, resume: bool = False, epochs: int = 3, **changes: Any
) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(epochs=epochs, batch_rows=256))
    return run_training("sparse_autoencoder", replace(config, **changes), options)


def test_k_largest_of_each_row_are_left_one_by_one() -> None:
    answers = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    for k in (1, 3, 8, 9):
        got = largest(answers, k)
        for row, kept in zip(answers.tolist(), got.tolist(), strict=True):
            chosen = sorted(range(9), key=lambda unit: -row[unit])[:k]
            assert kept == [max(value, 0.0) if unit in chosen else 0.0 for unit, value in enumerate(row)]


def test_units_that_share_the_last_place_all_answer() -> None:
    assert largest(torch.tensor([[2.0, 1.0, 1.0, 0.5]]), 2).tolist() == [[2.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("config", [SMALL, L1])
def test_the_contractive_penalty_is_the_norm_of_the_jacobian(config: SparseAutoencoderConfig) -> None:
    made = model(config)
    x = torch.rand(5, 1, 8, 8)
    h = made.hidden(x, 4 if config is SMALL else 32)
    got = squared_jacobian(h, made.filters)
    for row in range(5):
        k = 4 if config is SMALL else 32
        jacobian = torch.autograd.functional.jacobian(lambda one: made.hidden(one[None], k)[0], x[row])  # noqa: B023
        assert got[row].item() == pytest.approx(float(jacobian.square().sum()), rel=1e-4)


def test_the_loss_term_by_term() -> None:
    torch.manual_seed(0)
    decoded, x, h, weight = torch.rand(3, 6), torch.rand(3, 6), torch.relu(torch.randn(3, 4)), torch.randn(4, 6)
    error, penalty = sparse_loss(decoded, x, h, weight, 0.5, 0.1)
    assert error.item() == pytest.approx(np.mean([np.sum((x[i] - decoded[i]).numpy() ** 2) for i in range(3)]))
    contraction = [sum(float((weight[j] ** 2).sum()) for j in range(4) if h[i, j] > 0) for i in range(3)]
    expected = np.mean([0.5 * float(h[i].sum()) + 0.1 * contraction[i] for i in range(3)])
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    assert sparse_loss(decoded, x, h, weight, 0.0, 0.0)[1].item() == 0


def test_more_answer_when_it_is_served_than_in_training() -> None:
    made = model(replace(SMALL, served_factor=2.0))
    made.encoder[1].bias.data.fill_(5.0)  # all would answer
    x = torch.rand(6, 1, 8, 8)
    assert (made.hidden(x, SMALL.k) > 0).sum(dim=1).tolist() == [4] * 6
    encoding = made.encode(x)
    assert (encoding.embedding > 0).sum(dim=1).tolist() == [8] * 6
    assert encoding.latent is not None
    assert torch.equal(encoding.latent, encoding.embedding)
    assert (model(replace(SMALL, served_factor=1.0)).served_k, model(replace(SMALL, served_factor=99)).served_k) == (
        4,
        32,
    )
    decoded = made.decode(encoding.embedding)
    assert decoded.shape == x.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_the_margin_is_the_gap_at_the_last_place() -> None:
    made = model(replace(SMALL, served_factor=1.0))
    x = torch.rand(20, 1, 8, 8)
    answers = made.encoder(x)
    ordered = answers.sort(dim=1, descending=True).values
    expected = (ordered[:, 3] - ordered[:, 4]) / answers.abs().max()
    torch.testing.assert_close(made.margin(x), torch.where(ordered[:, 3] <= 0, 1.0, expected))
    assert model(L1).margin(x).tolist() == [1.0] * 20
    made.encoder[1].bias.data.fill_(-50.0)  # none answers: nothing is chosen
    assert made.margin(x).tolist() == [1.0] * 20


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 33, "num_units": 32}, "k: got 33, expected 1 to 32, the number of units"),
        ({"k": 0}, "k: got 0, expected 1 to 1024"),
        ({"num_units": 0}, "num_units: got 0, expected above 0"),
        ({"served_factor": 0.5}, "served_factor: got 0.5, expected 1 or greater"),
        ({"contractive": -1.0}, "contractive: got -1.0"),
        ({"l1": 0.7}, "l1: got 0.7, expected 0.3: k_sparse has no use for it"),
        ({"sparsity": "l1", "k": 3}, "k: got 3, expected 40: l1 has no use for it"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseAutoencoderConfig(**config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "sparse")


GOLDEN_LOSSES = (13.16617, 11.89673, 11.27516)
GOLDEN_L1 = (13.66586, 12.05925, 11.23953)


def test_the_loss_curves_of_a_seed_are_those_on_record(run: Path, tmp_path: Path) -> None:
    """A change here is a change of the method or the loop: say so in the commit."""
    assert [row["loss"] for row in open_run(run)[1].history] == pytest.approx(GOLDEN_LOSSES, rel=1e-3)
    history = open_run(train(tmp_path / "l1", L1))[1].history
    assert [row["loss"] for row in history] == pytest.approx(GOLDEN_L1, rel=1e-3)
    assert history[-1]["penalty"] > 0


def test_a_larger_penalty_leaves_fewer_answers(tmp_path: Path) -> None:
    def answers(folder: Path) -> float:
        return open_run(folder)[1].test["test_answering_share"]

    weak, strong = (train(tmp_path / str(l1), L1, l1=l1, learning_rate=1e-2, epochs=6) for l1 in (0.01, 3.0))
    assert answers(strong) < 0.8 * answers(weak)


def test_every_option_changes_what_is_learnt(run: Path, tmp_path: Path) -> None:
    def loss(folder: Path) -> float:
        return open_run(folder)[1].history[0]["loss"]

    changed = {"k": 8, "contractive": 0.1, "learning_rate": 1e-2, "num_units": 16}
    losses = [loss(run), *(loss(train(tmp_path / name, epochs=1, **{name: to})) for name, to in changed.items())]
    assert len({round(value, 6) for value in losses}) == len(losses)


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    whole, resumed = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_is_exported_with_parity(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path, report="none", promise=Promise(detectors=("mahalanobis",)))
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    assert {figure.name for figure in manifest.evaluations} >= {"units_in_use", "answering_share"}
    trained, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values
    rows = clear_rows(trained, digits)
    assert len(digits) > len(rows) > 0.9 * len(digits)
    got = GraphRunner(folder, manifest.graphs.values()).run(rows)
    with torch.no_grad():
        expected = trained.encode(torch.from_numpy(rows).permute(0, 3, 1, 2) / 255).embedding
    np.testing.assert_allclose(got["embedding"], expected.numpy(), atol=1e-5)
    assert ((got["embedding"] > 0).sum(axis=1) <= 8).all()
