"""Contrastive predictive coding (CPC): predict the features of what comes next, not its pixels.

Shape legend: N predictions, M targets, D features.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def info_nce(
    predictions_ND: Tensor,
    targets_MD: Tensor,
    positives_N: Tensor,
    temperature: float = 1.0,
    candidates_NM: Tensor | None = None,
) -> Tensor:
    """How badly each prediction tells its target from the other targets, [..., N], nats; chance is log(candidates).

    Args:
        predictions_ND: float [..., N, D]; leading axes are problems of their own that share no target.
        targets_MD: float [..., M, D]. For cosine scores, normalise both; gradients flow into both.
        positives_N: int64 [N] or [..., N], which target each prediction is meant to find.
        temperature: what the scores are divided by.
        candidates_NM: bool [N, M] or [..., N, M], which targets each prediction is held against: its own image or
            sequence, only other ones, or both. None: all. The positive always counts.

    Source: van den Oord et al., eq. 4, https://arxiv.org/abs/1807.03748.
    """
    # -log [exp(f(p_n, t_positive) / T) / sum_m exp(f(p_n, t_m) / T)]  with f(p, t) = p . t
    scores_NM = (predictions_ND @ targets_MD.mT).float() / temperature
    positives_N = positives_N.expand(scores_NM.shape[:-1])
    if candidates_NM is not None:
        is_positive_NM = F.one_hot(positives_N, scores_NM.shape[-1]).bool()
        scores_NM = scores_NM.masked_fill(~(candidates_NM | is_positive_NM), -float("inf"))
    loss_N = F.cross_entropy(scores_NM.flatten(0, -2), positives_N.flatten(), reduction="none")
    return loss_N.view(positives_N.shape)
