"""Rotation prediction (RotNet): an encoder learns what an image shows by telling how it was turned.

Every image of a batch is turned by 0, 90, 180 and 270 degrees, and a small head on the encoder says by which. Nothing
is labelled by anyone: the answer is known because we turned it. To tell, the encoder has to find what has an upper and
a lower end, that is objects and their parts; what looks the same from all sides is of no use to it, and is lost.

    loss = -1/4 sum_{y=1..4} log F^y(g(x | y))           g(. | y): the turn by (y - 1) 90 degrees       (eq. 3)
           F^y: what softmax of head(encoder(.)) gives to turn y; the mean over images                  (eq. 2)

Source: Gidaris, Singh and Komodakis, Unsupervised representation learning by predicting image rotations,
https://arxiv.org/abs/1803.07728. As there, all four turns of an image are in the same batch (section 3.2: with one turn
an image its network learns worse), and turns by quarters leave no trace, as resampling by other angles would.

What is ours: the paper classifies on top of all its layers and takes features from a middle one, since the last ones
serve the four answers alone. Here the head has a hidden layer of its own, which is thrown away, and the *embedding*
is h, what the encoder gives it. An image is cropped before it is turned, if at all, so that no turn has other edges.

Only square images are turned into images of the same shape; others are refused. Where an image has no upper end
(stains, textures seen from above, a 0, an 8) the four answers are equally good, and nothing is learned from it.

With several processes nothing is gathered: the loss is a mean over rows. BatchNorm sees all ranks.

Shape legend: B rows, R = 4 B turned rows, C channels, H height, W width, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentations import ViewConfig, Views
from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.backbones import SMALL, build_backbone, with_patches
from training.preprocessing import image_from_uint8
from training.schedule import LoopConfig, warmup_then_cosine

NUM_TURNS = 4  # section 3.1.1 of the paper: fewer learn less, eight cannot be told apart so well
CROPS = ViewConfig(crop_area_min=0.6, rotation_degrees=0.0, shear=0.0, elastic=0.0)


@dataclass(frozen=True)
class RotationConfig:
    """Hyperparameters of the method.

    Attributes:
        backbone: `small`, or the name of a timm model.
        backbone_weights: file of weights that the backbone starts with (safetensors, or .pth of tensors alone).
        width: channels after the stem of `small` (its own: 16) and of timm's ResNets (64).
        hidden_dim: size of the head's hidden layer.
        learning_rate: highest learning rate, of AdamW.
        weight_decay: weight decay of weights; biases and BatchNorm have none.
        views: what happens to an image before it is turned.
    """

    backbone: str = SMALL
    backbone_weights: str | None = None
    width: int | None = None
    hidden_dim: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    views: ViewConfig = field(default_factory=lambda: CROPS)

    def __post_init__(self) -> None:
        for name in ("width", "hidden_dim", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: got {value}, expected above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, expected 0 or greater")
        if self.views.rotation_degrees >= 45:
            raise ValueError(
                f"rotation_degrees: got {self.views.rotation_degrees}, expected less than 45: beyond it nobody can say"
                " which of the four turns it was"
            )


def turned(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """All four turns of each row, [R, C, H, W], counter-clockwise, one turn of all rows after another; and which, [R].

    Raises:
        RuntimeError: images are not square.
    """
    x_RCHW = torch.cat([x_BCHW.rot90(turns, (2, 3)) for turns in range(NUM_TURNS)])
    turns_R = torch.arange(NUM_TURNS, device=x_BCHW.device).repeat_interleave(len(x_BCHW))
    return x_RCHW, turns_R


def rotation_loss(logits_R4: Tensor, turns_R: Tensor) -> Tensor:
    """Mean over turned rows, nats; who cannot tell has log 4. In float32 whatever the precision of the network."""
    # -log F^y(g(x | y)), mean over y and x
    return F.cross_entropy(logits_R4.float(), turns_R)


class Rotation(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: RotationConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        height, width = shape.size
        if height != width:
            raise ValueError(f"image_size: got {height}x{width}, expected a square such as {height} for rotation")
        self.config = config
        self.loop = loop
        self.views = Views(config.views, shape.channels)
        self.encoder, embedding_dim = build_backbone(config.backbone, shape.channels, shape.size, config.width)
        self.head = nn.Sequential(
            nn.Linear(embedding_dim, config.hidden_dim, bias=False),
            nn.BatchNorm1d(config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, NUM_TURNS),
        )

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D]: h, what the head is given."""
        h_BD, patches = with_patches(self.encoder, x_BCHW)
        return Encoding(h_BD, patches=patches)

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        x_RCHW, turns_R = turned(self.views(image_from_uint8(x_BHWC)))
        logits_R4 = self.head(self.encoder(x_RCHW))
        loss = rotation_loss(logits_R4, turns_R)
        figures = {"loss": loss, "rotation_accuracy": (logits_R4.argmax(dim=1) == turns_R).float().mean()}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """How often the turn of an unseen image is told; chance is 1/4."""
        x_RCHW, turns_R = turned(image_from_uint8(x_BHWC))
        told_R = self.head(self.encoder(x_RCHW)).argmax(dim=1)
        self.log("test_rotation_accuracy", (told_R == turns_R).float().mean(), batch_size=len(x_BHWC))

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
