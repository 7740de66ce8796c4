"""Distillation: a small network learns what a big one makes of the same images, without labels.

The teacher is a bundle: any encoder that was trained here or imported. It embeds every image once, and its mirror image
where views are mirrored. The student sees a new view of the image in every epoch and is asked for the teacher's
embedding of the whole of it. So a step costs what the student costs, whatever the teacher costs.

    u = mean over mirror images of f(x) / |f(x)|                          f: the teacher's embedding
    t = W (u - m) / |W (u - m)|                           m: mean of u, W: its first P principal directions
    s = g(h(view of x)) / |g(h(view of x))|      h: the student's embedding, g: a linear head
    cosine   = mean of 1 - s.t
    relation = mean of KL(p || q), p_j = softmax_j(t.a_j / tau), q_j = softmax_j(s.a_j / tau),      (SEED, eq. 3 to 5)
               a_j: targets of rows that are drawn anew in every step

Sources: SEED: Fang et al., https://arxiv.org/abs/2101.04731; RKD: Park et al., https://arxiv.org/abs/1904.05068;
LightlyTrain's distillation, https://docs.lightly.ai/train; Beyer et al., A good teacher is patient and consistent,
https://arxiv.org/abs/2106.05237, who show the teacher the student's view.

What is ours: the teacher sees each image as it is. With the same view as the student it would have to run in every
step. All its targets are there, so rows drawn from them stand where SEED has a queue, and a run that is resumed needs
none. The *embedding* is h, not s: what g throws away is of use to a probe.

With several processes nothing is gathered: targets and anchors are there before the first step, every rank draws the
same anchors, and the loss is a mean over rows. BatchNorm sees all ranks.

Shape legend: B rows, N training rows, V views that the teacher saw, C channels, H height, W width, D embedding,
T teacher's embedding, P target, A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentations import ViewConfig, Views
from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.backbones import SMALL, build_backbone, with_patches
from training.preprocessing import image_from_uint8
from training.schedule import LoopConfig, warmup_then_cosine
from training.teacher import TARGETS, Teacher

ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class DistillConfig:
    """Hyperparameters of the method.

    Attributes:
        teacher: folder of the bundle to learn from, such as models/NAME/1.
        backbone: `small`, or the name of a timm model.
        backbone_weights: file of weights that the backbone starts with (safetensors, or .pth of tensors alone).
        width: channels after the stem of `small` (its own: 16) and of timm's ResNets (64).
        target_dim: principal directions of the teacher's embeddings that are learned, P.
        relation: weight of the relational loss beside the cosine.
        temperature: what similarities are divided by in the relational loss, tau.
        num_anchors: rows that similarities are taken to in the relational loss, A.
        learning_rate: highest learning rate, of AdamW.
        weight_decay: weight decay of weights; biases and BatchNorm have none.
        views: what a view that the student sees may differ in from the image.
    """

    teacher: str | None = None
    backbone: str = SMALL
    backbone_weights: str | None = None
    width: int | None = None
    target_dim: int = 512
    relation: float = 1.0
    temperature: float = 0.1
    num_anchors: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        for name in ("width", "target_dim", "temperature", "num_anchors", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: got {value}, expected above 0")
        for name in ("relation", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or greater")


def cosine_loss(s_BP: Tensor, t_BP: Tensor) -> Tensor:
    """Mean of 1 - s.t over rows of length 1."""
    return (1 - (s_BP * t_BP).sum(dim=1)).mean()


def relational_loss(s_BP: Tensor, t_BP: Tensor, anchors_AP: Tensor, temperature: float) -> Tensor:
    """Mean over rows of KL(p || q), nats: how likely an anchor is, by similarity of the teacher and of the student."""
    by_teacher_BA = F.log_softmax(t_BP @ anchors_AP.T / temperature, dim=1)
    by_student_BA = F.log_softmax(s_BP @ anchors_AP.T / temperature, dim=1)
    return F.kl_div(by_student_BA, by_teacher_BA, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Space:
    """How embeddings of the teacher become targets: mean float32 [T], directions float32 [T, P]."""

    mean_T: Tensor
    directions_TP: Tensor

    @classmethod
    def of(cls, u_NT: NDArray[np.float32], target_dim: int) -> Space:
        """Of the training rows' embeddings. Directions beyond the T that there are, are zeros."""
        mean_T = u_NT.mean(axis=0, dtype=np.float64)
        covariance_TT = np.zeros((len(mean_T), len(mean_T)))
        for start in range(0, len(u_NT), ROWS_AT_ONCE):
            part_NT = u_NT[start : start + ROWS_AT_ONCE] - mean_T
            covariance_TT += part_NT.T @ part_NT / len(u_NT)
        directions_TP = np.linalg.eigh(covariance_TT).eigenvectors[:, ::-1][:, :target_dim]
        padded_TP = np.pad(directions_TP, ((0, 0), (0, target_dim - directions_TP.shape[1])))
        return cls(torch.from_numpy(mean_T).float(), torch.from_numpy(padded_TP).float())

    def targets(self, u_NT: NDArray[np.float32]) -> Tensor:
        """Targets of length 1, float32 [N, P]."""
        return F.normalize((torch.from_numpy(u_NT) - self.mean_T) @ self.directions_TP, dim=1)


class Distill(LightningModule):
    """The student and its training step. `encode` is what is exported."""

    def __init__(self, config: DistillConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.shape = shape
        self.views = Views(config.views, shape.channels)
        self.encoder, embedding_dim = build_backbone(config.backbone, shape.channels, shape.size, config.width)
        self.head = nn.Linear(embedding_dim, config.target_dim)
        self.bank_NP = torch.empty(0, config.target_dim)
        self.space: Space | None = None

    @cached_property
    def teacher(self) -> Teacher:
        """The bundle, which an export of the student does not need."""
        return Teacher.open(self.config.teacher)

    def check_teacher(self) -> None:
        """See `training.methods.encoding.Taught`."""
        self.teacher.check_takes(self.shape)

    def targets(self, values: Any, folder: Path) -> Tensor:
        """See `training.methods.encoding.Taught`: the targets, float32 [N, P]."""
        seen_NVT = self.teacher.targets(values, folder / TARGETS, mirrored=self.config.views.flip)
        u_NT = np.concatenate(
            [
                seen_NVT[start : start + ROWS_AT_ONCE].astype(np.float32).mean(axis=1)
                for start in range(0, len(seen_NVT), ROWS_AT_ONCE)
            ]
        )
        self.space = Space.of(u_NT, self.config.target_dim)
        self.bank_NP = self.space.targets(u_NT)
        return self.bank_NP

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D]: h, not s."""
        h_BD, patches = with_patches(self.encoder, x_BCHW)
        return Encoding(h_BD, patches=patches)

    def predicted(self, x_BCHW: Tensor) -> Tensor:
        """The student's targets, s, [B, P], of length 1 and float32 whatever the precision of the network."""
        return F.normalize(self.head(self.encoder(x_BCHW)).float(), dim=1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step on uint8 images and their targets."""
        x_BHWC, t_BP = batch
        s_BP = self.predicted(self.views(image_from_uint8(x_BHWC)))
        with torch.autocast(s_BP.device.type, enabled=False):
            loss = cosine = cosine_loss(s_BP, t_BP)
            if self.config.relation:
                chosen_A = torch.randint(len(self.bank_NP), (self.config.num_anchors,))
                anchors_AP = self.bank_NP[chosen_A].to(s_BP.device)
                relation = relational_loss(s_BP, t_BP, anchors_AP, self.config.temperature)
                loss = cosine + self.config.relation * relation
                self.log("relation", relation, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """How near the student is to the teacher on a batch of unseen images, and whether it tells them apart."""
        assert self.space is not None  # a training comes before its test
        u_BT = self.teacher.embed(x_BHWC.cpu().numpy())
        t_BP = self.space.targets(u_BT).to(x_BHWC.device)
        s_BP = self.predicted(image_from_uint8(x_BHWC))
        found_B = (s_BP @ t_BP.T).argmax(dim=1) == torch.arange(len(x_BHWC), device=x_BHWC.device)
        self.log("test_teacher_cosine", (s_BP * t_BP).sum(dim=1).mean(), batch_size=len(x_BHWC))
        self.log("test_teacher_found", found_B.float().mean(), batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a warm-up, then a cosine to zero; biases and norms, which are vectors, do not decay."""
        weights = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": weights, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
