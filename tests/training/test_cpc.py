from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor
from torch.nn import functional as F

from training.methods.cpc import info_nce


def brute_force(
    predictions: Tensor, targets: Tensor, positives: Tensor, temperature: float, candidates: Tensor | None
) -> Tensor:
    losses = []
    for n, prediction in enumerate(predictions):
        score = [math.exp(float(prediction @ target) / temperature) for target in targets]
        right = int(positives[n])
        allowed = [m for m in range(len(targets)) if candidates is None or candidates[n, m] or m == right]
        losses.append(-math.log(score[right] / sum(score[m] for m in allowed)))
    return torch.tensor(losses)


@pytest.mark.parametrize(("num_predictions", "num_targets"), [(1, 1), (1, 5), (4, 4), (7, 3), (3, 9)])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("restricted", [False, True])
def test_info_nce_is_the_formula(num_predictions: int, num_targets: int, temperature: float, restricted: bool) -> None:
    torch.manual_seed(num_predictions + num_targets)
    predictions, targets = torch.randn(num_predictions, 6), torch.randn(num_targets, 6)
    positives = torch.randint(num_targets, (num_predictions,))
    candidates = torch.rand(num_predictions, num_targets) < 0.5 if restricted else None
    got = info_nce(predictions, targets, positives, temperature, candidates)
    expected = brute_force(predictions, targets, positives, temperature, candidates)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_rows", [2, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_without_self_among_the_candidates_is_the_nt_xent_of_lightly(
    num_rows: int, temperature: float
) -> None:
    torch.manual_seed(0)
    views = torch.randn(2 * num_rows, 8)
    unit = F.normalize(views, dim=1)
    positives = torch.arange(2 * num_rows).roll(num_rows)
    got = info_nce(unit, unit, positives, temperature, ~torch.eye(2 * num_rows, dtype=torch.bool))
    torch.testing.assert_close(got.mean(), NTXentLoss(temperature)(views[:num_rows], views[num_rows:]))


def test_leading_axes_are_problems_of_their_own() -> None:
    predictions, targets = torch.randn(3, 2, 4, 6), torch.randn(3, 2, 5, 6)
    positives, candidates = torch.tensor([0, 4, 2, 2]), torch.rand(3, 2, 4, 5) < 0.7
    got = info_nce(predictions, targets, positives, 0.3, candidates)
    assert got.shape == (3, 2, 4)
    alone = info_nce(predictions[1, 0], targets[1, 0], positives, 0.3, candidates[1, 0])
    torch.testing.assert_close(got[1, 0], alone)


def test_chance_is_the_log_of_the_number_of_candidates() -> None:
    same_sequence = torch.arange(6)[:, None] // 3 == torch.arange(6) // 3
    zeros, positives = torch.zeros(6, 2), torch.arange(6)
    assert info_nce(zeros, zeros, positives).tolist() == pytest.approx([math.log(6)] * 6)
    assert info_nce(zeros, zeros, positives, 1.0, same_sequence).tolist() == pytest.approx([math.log(3)] * 6)


def test_scores_that_overflow_exp_give_a_finite_loss_and_gradient() -> None:
    predictions = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = info_nce(predictions, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]))
    assert loss.tolist() == [0.0, 2e4]
    loss.sum().backward()
    assert predictions.grad is not None
    assert predictions.grad.isfinite().all()
    assert predictions.grad[1].item() == -2.0
