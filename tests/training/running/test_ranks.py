"""Two processes train what one process trains: loss, gradient, weights and figures of every method."""

from __future__ import annotations

import socket
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.running import ranks
from tests.training.taught import write_teacher
from training.augmentations import ViewConfig, Views
from training.methods import METHODS
from training.networks.batch_norms import NormsOverRanks, check_norms
from training.ranks import among_all, gathered, mine, num_of_all
from training.running import checkpoint
from training.running.batches import Batches
from training.running.run import CHECKPOINT

SECONDS = 110


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The folder of the runs, and what one process and each of two ranks saw of them."""
    folder = tmp_path_factory.mktemp("ranks")
    write_teacher(folder / ranks.TEACHER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = get_context("spawn")
    alone = spawn.Process(target=ranks.run_alone, args=(str(folder),), daemon=True)
    both = [spawn.Process(target=ranks.run_rank, args=(rank, str(folder), port), daemon=True) for rank in (0, 1)]
    for process in (alone, *both):
        process.start()
    for process in (alone, *both):
        process.join(SECONDS)
        process.kill()
    assert [process.exitcode for process in (alone, *both)] == [0, 0, 0]
    names = ("one", "rank0", "rank1")
    one, first, second = (torch.load(folder / f"{name}.pt", weights_only=False) for name in names)
    return folder, one, first, second


def test_every_method_is_tried() -> None:
    assert {name for name, _ in ranks.CASES.values()} == set(METHODS)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("case", ranks.CASES)
def test_two_processes_have_the_losses_and_the_gradients_of_one(case: str, found: Any) -> None:
    _, one, first, second = found
    assert len(one[case]["losses"]) == ranks.NUM_STEPS
    for expected, *both in zip(*(seen[case]["losses"] for seen in (one, first, second)), strict=True):
        torch.testing.assert_close(sum(both) / 2, expected, atol=1e-6, rtol=1e-6)
    for expected, *both in zip(*(seen[case]["gradients"] for seen in (one, first, second)), strict=True):
        assert torch.equal(*both)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(both[0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", ranks.CASES)
def test_two_processes_leave_the_weights_and_the_figures_of_one(case: str, found: Any) -> None:
    """Running statistics of BatchNorm are among the weights. What is tested is tested by rank 0 alone."""
    folder, one, first, second = found
    expected, got = (checkpoint.state_dict(folder / name / case / CHECKPOINT) for name in ("one", "two"))
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-6, rtol=1e-6)
    assert first[case]["history"][0] == pytest.approx(one[case]["history"][0], rel=1e-5, abs=1e-6)
    assert first[case]["test"] == pytest.approx(one[case]["test"], rel=1e-5, abs=1e-6)
    assert first[case]["test"]
    assert not second[case]["test"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(found: Any) -> None:
    folder, _, first, _ = found
    whole, resumed = (checkpoint.state_dict(folder / "two" / name / CHECKPOINT) for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert first["stopped by two"]["history"] == first["whole"]["history"]


def test_a_run_goes_on_with_another_number_of_ranks(found: Any) -> None:
    folder, one, first, _ = found
    whole, resumed = (checkpoint.state_dict(folder / "one" / name / CHECKPOINT) for name in ("whole", "stopped"))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-5, rtol=1e-4)  # in single precision
    assert len(first["stopped by one"]["history"]) == len(one["whole"]["history"]) == 3


def test_rank_0_alone_saves(found: Any) -> None:
    _, _, first, second = found
    assert first["saved"] > len(ranks.CASES)
    assert second["saved"] == 0


def test_rows_that_are_left_over_hang_nobody(found: Any) -> None:
    """Seven rows make a batch of six for two."""
    _, _, first, second = found
    assert [len(seen["few rows"]["losses"]) for seen in (first, second)] == [1, 1]


def test_a_rank_that_trains_something_else_is_told(found: Any) -> None:
    _, _, first, second = found
    assert not first["unlike"]
    assert second["unlike"] == "this rank has another training than rank 0: config.width: got 5, expected 4"


def test_ranks_part_every_batch_and_what_is_drawn_for_it(as_rank: Any) -> None:
    rows = torch.arange(21)
    whole = [*Batches(rows, 6, 0, 1)]
    torch.manual_seed(0)
    noise = torch.rand(6, 2)
    parts, drawn = [], []
    for rank in range(3):
        as_rank(rank, 3)
        parts.append([*Batches(rows, 6, 0, 1)])
        torch.manual_seed(0)
        drawn.append(mine(torch.rand(num_of_all(2), 2)))
        assert torch.equal(mine(among_all(drawn[-1])), drawn[-1])
    assert torch.equal(torch.cat(drawn), noise)
    for batch, *of_ranks in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(of_ranks), batch)


def test_colours_are_those_that_one_process_draws(as_rank: Any) -> None:
    views = Views(ViewConfig(flip=True, jitter=0.5, grey_probability=0.2), 3)
    torch.manual_seed(0)
    images = torch.rand(8, 3, 8, 8)
    torch.manual_seed(1)
    expected = views(images)
    got = []
    for rank in range(2):
        as_rank(rank, 2)
        torch.manual_seed(1)
        got.append(views(images.chunk(2)[rank]))
    torch.testing.assert_close(torch.cat(got), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 2)])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}])
def test_a_batch_norm_of_ranks_is_that_of_torch(
    shape: tuple[int, ...], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, as_rank: Any
) -> None:
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    torch.manual_seed(0)
    rows, others = torch.randn(shape) * 3 + 1, torch.randn(shape)
    expected_norm = kind(3, **options)
    expected = expected_norm(torch.cat([rows, others]))[:6]
    norm = kind(3, **options)
    wrapped = NormsOverRanks().apply(nn.Sequential(norm))
    as_rank(0, 2)
    across = [0, *range(2, len(shape))]
    theirs = torch.stack([others.mean(across), others.var(across, correction=0)])[None]
    monkeypatch.setattr("training.networks.batch_norms.gathered", lambda mine: torch.cat([mine, theirs]))
    torch.testing.assert_close(wrapped(rows), expected)
    for name, buffer in expected_norm.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer)
    norm.eval()
    torch.testing.assert_close(norm(rows), expected_norm.eval()(rows))
    assert type(NormsOverRanks().revert(wrapped)[0]) is kind


def test_a_batch_norm_that_cannot_be_shared_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        """One with an activation, say, as timm's."""

    check_norms(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match=r"backbone: got 0\.1, a Other, which several processes cannot share"):
        check_norms(nn.Sequential(nn.Sequential(nn.ReLU(), Other(3))))


def test_one_process_gets_back_what_it_gives() -> None:
    rows = torch.rand(3, 2, requires_grad=True)
    assert gathered(rows) is mine(rows) is among_all(rows) is rows
