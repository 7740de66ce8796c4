"""Sparse autoencoder: one hidden layer far wider than it needs to be, of which each image may use little.

Without a penalty a layer as wide as the image copies it. If only a few units may answer, each comes to stand for
something that many images have, a stroke at a place, and an image is told by which strokes it has. Two ways to ask:

    h    = relu(W x + b),   x' = W^T h + c                                                            (tied weights)
    l1         |x - x'|^2 + lambda sum_j |h_j|                                                 ([1] with an L1 penalty)
    k_sparse   |x - x'|^2, h_j = 0 unless W_j x + b_j is among the k largest of the image                 ([2] eq. 1-3)
    and either + contractive |dh/dx|_F^2,   |dh/dx|_F^2 = sum_{j: h_j > 0} |W_j|^2                           ([3] eq. 3)

Sources: [1] Ng, Sparse autoencoder, CS294A lecture notes, 2011; [2] Makhzani and Frey, k-Sparse Autoencoders,
https://arxiv.org/abs/1312.5663; [3] Rifai et al., Contractive Auto-Encoders, ICML 2011.

The *embedding* and the *latent* are h. As in [2] it may have more than k answers when it is served than in training
(`served_factor`), which a classifier likes. Sums over pixels and units, means over rows.

What is ours: [1] asks for a mean activation per unit, not for L1; [2] keeps negative answers, which are 0 here; [3] is
with sigmoids. Where two units share the k-th place both answer.

With several processes the loss is a mean over rows, so DDP's mean over ranks is all there is to it.

Shape legend: B rows, C channels, H height, W width, P numbers of an image (C H W), U units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.preprocessing import image_from_uint8
from training.schedule import LoopConfig, warmup_then_cosine


@dataclass(frozen=True)
class SparseAutoencoderConfig:
    """Hyperparameters of the method.

    Attributes:
        num_units: size of the hidden layer, U.
        sparsity: `k_sparse` or `l1`.
        k: units that may answer in training, 1 to num_units; `k_sparse` only.
        served_factor: so many times as many answer when it is served, 1 or greater; `k_sparse` only.
        l1: weight of the sum of the answers; `l1` only.
        contractive: weight of the squared norm of the Jacobian; 0 leaves it out.
        learning_rate: highest learning rate of Adam.
    """

    num_units: int = 1024
    sparsity: Literal["k_sparse", "l1"] = "k_sparse"
    k: int = 40
    served_factor: float = 2.0
    l1: float = 0.3
    contractive: float = 0.0
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("num_units", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        for name in ("l1", "contractive"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater")
        if self.served_factor < 1:
            raise ValueError(f"served_factor: got {self.served_factor}, expected 1 or greater")
        unused = {"k_sparse": ("l1",), "l1": ("k", "served_factor")}[self.sparsity]
        for name in unused:
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected {default}: {self.sparsity} has no use for it"
                )
        if self.sparsity == "k_sparse" and not 1 <= self.k <= self.num_units:
            raise ValueError(f"k: got {self.k}, expected 1 to {self.num_units}, the number of units")


def largest(answers_BU: Tensor, k: int) -> Tensor:
    """The answers with all but the k largest of each row set to 0, and those below 0; of equal ones all stay."""
    # h_j = a_j if j in supp_k(a), else 0
    kth_B1 = answers_BU.topk(k, dim=1).values[:, -1:]
    return torch.relu(answers_BU) * (answers_BU >= kth_B1)


def squared_jacobian(h_BU: Tensor, weight_UP: Tensor) -> Tensor:
    """|dh/dx|_F^2 of each row, [B], of h = relu(W x + b) and of its k-sparse form."""
    # sum_{j: h_j > 0} |W_j|^2
    return (h_BU > 0).to(h_BU.dtype) @ weight_UP.square().sum(dim=1)


def sparse_loss(
    decoded_BP: Tensor, x_BP: Tensor, h_BU: Tensor, weight_UP: Tensor, l1: float, contractive: float
) -> tuple[Tensor, Tensor]:
    """Squared error and penalties, means over rows; their sum is the loss."""
    # |x - x'|^2,   lambda sum_j |h_j| + contractive |dh/dx|_F^2
    penalty_B = l1 * h_BU.sum(dim=1)
    if contractive:
        penalty_B = penalty_B + contractive * squared_jacobian(h_BU, weight_UP)
    return (x_BP - decoded_BP).square().sum(dim=1).mean(), penalty_B.mean()


class SparseAutoencoder(LightningModule):
    """The model and its training step. `encode` and `decode` are what is exported."""

    def __init__(self, config: SparseAutoencoderConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.image_CHW = (shape.channels, *shape.size)
        num_pixels = math.prod(self.image_CHW)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(num_pixels, config.num_units))
        self.visible_bias_P = nn.Parameter(torch.zeros(num_pixels))
        self.answered_U: list[Tensor] = []
        served = int(config.k * config.served_factor)
        self.served_k = min(served, config.num_units) if config.sparsity == "k_sparse" else config.num_units

    @property
    def filters(self) -> Tensor:
        """W, one filter a unit, [U, P]."""
        layer = self.encoder[1]
        assert isinstance(layer, nn.Linear)
        return layer.weight

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """H [B, U], which is the embedding and what is decoded."""
        h_BU = self.hidden(x_BCHW, self.served_k)
        return Encoding(h_BU, h_BU.clone())

    def hidden(self, x_BCHW: Tensor, k: int) -> Tensor:
        """H with at most k answers, [B, U]."""
        answers_BU: Tensor = self.encoder(x_BCHW)
        return largest(answers_BU, k) if k < self.config.num_units else torch.relu(answers_BU)

    def decode(self, z_BL: Tensor) -> Tensor:
        """X' within what a pixel can be, float [B, C, H, W], 0 to 1."""
        return self.decoded(z_BL).clamp(0, 1).view(-1, *self.image_CHW)

    def decoded(self, h_BU: Tensor) -> Tensor:
        """x', [B, P]."""
        return h_BU @ self.filters + self.visible_bias_P

    def margin(self, x_BCHW: Tensor) -> Tensor:
        """How far the last unit that answers is from the first that may not, [B], of the largest answer."""
        k = self.served_k
        if k == self.config.num_units:
            return torch.ones(len(x_BCHW), device=x_BCHW.device)
        answers_BU: Tensor = self.encoder(x_BCHW)
        kth_B, next_B = answers_BU.topk(k + 1, dim=1).values[:, -2:].unbind(dim=1)
        apart_B = (kth_B - next_B) / answers_BU.abs().max().clamp_min(1e-30)
        return torch.where(kth_B <= 0, 1.0, apart_B)  # an answer of 0 or less is 0 in either case

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        config, x_BCHW = self.config, image_from_uint8(x_BHWC)
        is_k_sparse = config.sparsity == "k_sparse"
        h_BU = self.hidden(x_BCHW, config.k if is_k_sparse else config.num_units)
        l1 = 0.0 if is_k_sparse else config.l1
        terms = (self.decoded(h_BU), x_BCHW.flatten(1), h_BU, self.filters, l1, config.contractive)
        error, penalty = sparse_loss(*terms)
        loss = error + penalty
        figures = {
            "loss": loss,
            "squared_error": error,
            "penalty": penalty,
            "answering_share": (h_BU > 0).float().mean(),
        }
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """On rows that were not trained on, as served."""
        x_BCHW = image_from_uint8(x_BHWC)
        h_BU = self.encode(x_BCHW).embedding
        self.answered_U.append((h_BU > 0).any(dim=0))
        figures = {
            "test_reconstruction_squared_error": (self.decode(h_BU) - x_BCHW).square().mean(),
            "test_answering_share": (h_BU > 0).float().mean(),
        }
        self.log_dict(figures, batch_size=len(x_BHWC))

    def on_test_epoch_end(self) -> None:
        """Units that answered any test row: others are dead."""
        ever_U = torch.stack(self.answered_U).any(dim=0)
        self.answered_U.clear()
        self.log("test_units_in_use", ever_U.float().mean())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
