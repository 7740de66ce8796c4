"""SimCLR: a simple framework for contrastive learning of visual representations.

Two random views of each image go through an encoder and a small projection head. The loss asks every view to find its
partner among all other views of the batch, by cosine similarity. What the views have in common, and what
distinguishes one image from another, ends up in the embedding; what the views differ in is lost.

    l(i, j) = -log( exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t) )                       (eq. 1)
    loss    = mean of l over both directions of all pairs (i, j), sim = cosine, t = temperature

Sources: Chen, Kornblith, Norouzi and Hinton, https://arxiv.org/abs/2002.05709; LARS: You, Gitman and Ginsburg,
https://arxiv.org/abs/1708.03888.

What is ours: the defaults fit grey digits on a CPU (`training.augmentations`). As in the paper the *embedding* is h,
the encoder's output, not z: the projection throws away what the views vary.

With several processes every rank sees the projections of all, with gradient, and computes the whole loss. BatchNorm
does so too (`training.networks.batch_norms`), or partners could be found by their batch's statistics.

Shape legend: B rows, V = 2 B views, C channels, H height, W width, D embedding, P projection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentations import ViewConfig, Views
from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.backbones import SMALL, build_backbone, with_patches
from training.preprocessing import image_from_uint8
from training.ranks import gathered
from training.schedule import LoopConfig, warmup_then_cosine

MOMENTUM = 0.9  # appendix B.9 of the paper


@dataclass(frozen=True)
class SimClrConfig:
    """Hyperparameters of the method.

    Attributes:
        backbone: `small`, or the name of a timm model.
        backbone_weights: file of weights that the backbone starts with (safetensors, or .pth of tensors alone).
        width: channels after the stem of `small` (its own: 16) and of timm's ResNets (64).
        hidden_dim: size of the projection head's hidden layer.
        projection_dim: size of a projection, P.
        temperature: what cosine similarities are divided by, t.
        optimizer: `adamw`, `sgd` (Nesterov) or `lars` (for batches of thousands of rows).
        learning_rate: highest learning rate.
        weight_decay: weight decay of weights; biases and BatchNorm have none.
        views: what two views of an image may differ in.
    """

    backbone: str = SMALL
    backbone_weights: str | None = None
    width: int | None = None
    hidden_dim: int = 512
    projection_dim: int = 128
    temperature: float = 0.2
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        for name in ("width", "hidden_dim", "projection_dim", "temperature", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: got {value}, expected above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, expected 0 or greater")


def nt_xent(first_BP: Tensor, second_BP: Tensor, temperature: float) -> Tensor:
    """The loss of B pairs, nats. Row i of one is the partner of row i of the other.

    In float32 whatever the precision of the network: at t = 0.1 a bfloat16 similarity is off by 4 % of a nat.
    """
    with torch.autocast(first_BP.device.type, enabled=False):
        z_VP = F.normalize(torch.cat([first_BP, second_BP]).float(), dim=1)
        similarity_VV = z_VP @ z_VP.T / temperature
        similarity_VV.fill_diagonal_(float("-inf"))  # k != i
        partner_V = torch.arange(len(z_VP), device=z_VP.device).roll(len(first_BP))
        # -log softmax(sim / t) at the partner
        return F.cross_entropy(similarity_VV, partner_V)


class SimClr(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: SimClrConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.views = Views(config.views, shape.channels)
        self.encoder, embedding_dim = build_backbone(config.backbone, shape.channels, shape.size, config.width)
        self.projection_head = nn.Sequential(
            nn.Linear(embedding_dim, config.hidden_dim, bias=False),
            nn.BatchNorm1d(config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.projection_dim, bias=False),
            nn.BatchNorm1d(config.projection_dim),
        )

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D]: h, not z."""
        h_BD, patches = with_patches(self.encoder, x_BCHW)
        return Encoding(h_BD, patches=patches)

    def projections(self, x_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """The projections z of two fresh views of each row, [B, P] each."""
        x_BCHW = image_from_uint8(x_BHWC)
        views_VCHW = torch.cat([self.views(x_BCHW), self.views(x_BCHW)])
        first_BP, second_BP = self.projection_head(self.encoder(views_VCHW)).chunk(2)
        return first_BP, second_BP

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        first_BP, second_BP = self.projections(x_BHWC)
        loss = nt_xent(gathered(first_BP), gathered(second_BP), self.config.temperature)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """How often a view's nearest neighbour among a batch of unseen images is its partner."""
        first_BP, second_BP = self.projections(x_BHWC)
        similarity_BB = F.normalize(first_BP, dim=1) @ F.normalize(second_BP, dim=1).T
        found_B = similarity_BB.argmax(dim=1) == torch.arange(len(x_BHWC), device=x_BHWC.device)
        self.log("test_partner_found", found_B.float().mean(), batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The chosen optimizer with a warm-up, then a cosine to zero."""
        optimizer = make_optimizer(self, self.config)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))


def make_optimizer(module: nn.Module, config: SimClrConfig) -> torch.optim.Optimizer:
    """Weights decay (and LARS adapts their rate); biases and norms, which are vectors, neither.

    Source: the paper's section 2.2 and its code: decay would pull the scale of a BatchNorm to zero.
    """
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=MOMENTUM, nesterov=True)
    from timm.optim.lars import Lars  # imported here: timm takes seconds

    groups[0]["always_adapt"] = True
    lars: torch.optim.Optimizer = Lars(groups, lr=config.learning_rate, momentum=MOMENTUM)
    return lars
