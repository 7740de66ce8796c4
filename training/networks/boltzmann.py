"""The restricted Boltzmann machine (RBM): its energy, its free energy, its conditionals and its Gibbs chain.

Visible units v and hidden units h are 0 or 1; there are weights between the two kinds and none within one.

    E(v, h)  = -a v - b h - h W v,      p(v, h) = exp(-E(v, h)) / Z
    F(v)     = -log sum_h exp(-E(v, h)) = -a v - sum_j softplus(b_j + W_j v),     p(v) = exp(-F(v)) / Z
    p(h_j = 1 | v) = sigmoid(b_j + W_j v),      p(v_i = 1 | h) = sigmoid(a_i + (h W)_i)

Sources: Smolensky 1986; Hinton, Training products of experts, Neural Computation 14 (2002); free energy and practice:
Hinton, A practical guide to training RBMs, UTML TR 2010-003.

Shape legend: B rows or chains, V visible units, H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.ranks import among_all, mine


class Rbm(NamedTuple):
    """The parameters of one machine, wherever they live.

    Attributes:
        weight_HV: W.
        hidden_bias_H: b.
        visible_bias_V: a.
    """

    weight_HV: Tensor
    hidden_bias_H: Tensor
    visible_bias_V: Tensor

    def hidden(self, v_BV: Tensor) -> Tensor:
        """p(h = 1 | v), [B, H]."""
        return F.linear(v_BV, self.weight_HV, self.hidden_bias_H).sigmoid()

    def visible(self, h_BH: Tensor) -> Tensor:
        """p(v = 1 | h), [B, V]."""
        return (h_BH @ self.weight_HV + self.visible_bias_V).sigmoid()

    def free_energy(self, v_BV: Tensor) -> Tensor:
        """F(v), [B]."""
        # -a v - sum_j softplus(b_j + W_j v)
        inner_BH = F.linear(v_BV, self.weight_HV, self.hidden_bias_H)
        return -(v_BV @ self.visible_bias_V) - F.softplus(inner_BH).sum(dim=1)

    @torch.no_grad()
    def chain(self, v_BV: Tensor, num_steps: int) -> Tensor:
        """Visible units, 0 or 1, after so many steps of the Gibbs chain that begins at v: h | v, then v | h."""
        for _ in range(num_steps):
            v_BV = drawn(self.visible(drawn(self.hidden(v_BV))))
        return v_BV


def drawn(probability_BU: Tensor) -> Tensor:
    """Units that are 1 with these probabilities, else 0: of a rank what one process would draw for its rows."""
    return (mine(torch.rand_like(among_all(probability_BU))) < probability_BU).to(probability_BU.dtype)
