"""A codebook: K vectors of which each given vector becomes the nearest, learnt by moving averages.

A code moves to the mean of the vectors that it is nearest to, both sums being exponential moving averages over steps
(online k-means). With n_k vectors nearest to code k in a step, of which z_i are some, and n = sum_k N_k:

    N_k <- decay N_k + (1 - decay) n_k        m_k <- decay m_k + (1 - decay) sum_i z_i
    e_k = m_k / N'_k,    N'_k = (N_k + epsilon) / (n + K epsilon) n                               (Laplace smoothing)

A code that hardly any vector is nearest to moves no more and is lost. It is dead if its N_k is below a share of what it
would be if all were used alike, and is put on a vector of the batch drawn at random. So codes begin, too: at the first
step all are dead.

Sources: van den Oord et al., https://arxiv.org/abs/1711.00937, appendix A.1; smoothing and epsilon: their code,
Sonnet's `VectorQuantizerEMA`; dead codes: Dhariwal et al., Jukebox, https://arxiv.org/abs/2005.00341, section 3.1.

With several processes the sums are of the vectors of all ranks, so all have the same codes. State lies in buffers.

Shape legend: N vectors of this rank, K codes, D numbers of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.ranks import gathered, num_of_all

EPSILON = 1e-5  # Sonnet's
REBORN = 2.0
"""Times the N_k at which a code is dead: what a new one starts with. With decay 0.99 it has 69 steps to find its
vectors, and those move it at once, for its own place weighs little."""


class Codebook(nn.Module):
    """The codes and their moving averages.

    Args:
        num_codes: K.
        dim: D.
        decay: of the averages, 0 or greater, below 1.
        dead_share: of N_k where all codes are used alike; a code below it is dead. 0: none ever is.
    """

    codes_KD: Tensor
    counts_K: Tensor
    sums_KD: Tensor

    def __init__(self, num_codes: int, dim: int, decay: float, dead_share: float) -> None:
        super().__init__()
        self.decay, self.dead_share = decay, dead_share
        self.register_buffer("codes_KD", torch.zeros(num_codes, dim))
        self.register_buffer("counts_K", torch.zeros(num_codes))
        self.register_buffer("sums_KD", torch.zeros(num_codes, dim))

    def affinity(self, z_ND: Tensor) -> Tensor:
        """[N, K], higher for nearer codes: z . e - |e|^2 / 2 = (|z|^2 - |z - e|^2) / 2, in float32 at least."""
        with torch.autocast(z_ND.device.type, enabled=False):
            z_ND = z_ND.to(self.codes_KD.dtype)
            return z_ND @ self.codes_KD.T - 0.5 * self.codes_KD.square().sum(dim=1)

    def nearest(self, z_ND: Tensor) -> Tensor:
        """Index of the code that is nearest to each vector, int64 [N]; of equally near ones the first."""
        return self.affinity(z_ND).argmax(dim=1)

    def forward(self, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes: indices [N] and vectors [N, D]. In training they learn from it, after they were chosen."""
        if self.training:
            self.revive(z_ND)
        nearest_N = self.nearest(z_ND)
        vectors_ND = self.codes_KD[nearest_N]
        if self.training:
            self.learn(z_ND, nearest_N)
        return nearest_N, vectors_ND

    @torch.no_grad()
    def learn(self, z_ND: Tensor, nearest_N: Tensor) -> None:
        """One step of the moving averages, and the codes that follow from them."""
        num_codes = len(self.codes_KD)
        counts_K = torch.bincount(nearest_N, minlength=num_codes).to(self.counts_K.dtype)
        sums_KD = torch.zeros_like(self.sums_KD).index_add_(0, nearest_N, z_ND.to(self.sums_KD.dtype))
        of_all_KD = gathered(torch.cat([counts_K[:, None], sums_KD], dim=1)[None]).sum(dim=0)
        self.counts_K.lerp_(of_all_KD[:, 0], 1 - self.decay)
        self.sums_KD.lerp_(of_all_KD[:, 1:], 1 - self.decay)
        total = self.counts_K.sum()
        smoothed_K = (self.counts_K + EPSILON) / (total + num_codes * EPSILON) * total
        self.codes_KD.copy_(self.sums_KD / smoothed_K[:, None])

    @torch.no_grad()
    def revive(self, z_ND: Tensor) -> None:
        """Puts dead codes on vectors of the batch, of all ranks, each on another one, as far as there are so many."""
        even = num_of_all(len(z_ND)) / len(self.codes_KD)
        fewest = self.dead_share * even
        dead = (
            (self.counts_K < fewest).nonzero().squeeze(1) if self.counts_K.any() else torch.arange(len(self.codes_KD))
        )
        dead = dead.to(z_ND.device)
        if not len(dead):
            return
        chosen = torch.randperm(num_of_all(len(z_ND)), device=z_ND.device)[: len(dead)]
        born, dead = gathered(z_ND.detach())[chosen].to(self.codes_KD.dtype), dead[: len(chosen)]
        weight = REBORN * fewest if fewest else even
        self.codes_KD[dead], self.counts_K[dead], self.sums_KD[dead] = born, born.new_tensor(weight), weight * born

    @torch.no_grad()
    def margin(self, z_ND: Tensor) -> Tensor:
        """How much nearer the nearest code is than the next one, [N], as a share of the largest affinity."""
        affinity_NK = self.affinity(z_ND)
        first_N2 = affinity_NK.topk(min(2, affinity_NK.shape[1]), dim=1).values
        return (first_N2[:, 0] - first_N2[:, -1]) / affinity_NK.abs().max().clamp_min(1e-30)


def usage(counts_K: Tensor) -> Tensor:
    """Share of the codes that were chosen at all."""
    return (counts_K > 0).to(counts_K.dtype).mean()


def perplexity(counts_K: Tensor) -> Tensor:
    """Exp of the entropy of which code is chosen: K if all are chosen alike, 1 if only one ever is."""
    share_K = counts_K / counts_K.sum().clamp_min(1)
    entropy: Tensor = -torch.special.xlogy(share_K, share_K).sum()
    return entropy.exp()
