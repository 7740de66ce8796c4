"""Colorization: an encoder learns what an image shows by telling which colours it has from its lightness alone.

The image is parted into its lightness, which the encoder sees, and its colours, which a head is asked for at each
place: as a distribution over some hundred bins, since an apple may be red or green and their mean is neither. To tell,
the encoder has to know grass from sky and frogs from trucks; what colour alone would say is not in the embedding.

    Z_q  = exp(-|ab - c_q|^2 / 2 s^2) / sum over the 5 nearest bins c_q of a place's colour, s = 5     (section 2.1)
    loss = mean over places of -v(Z) sum_q Z_q log softmax_q(head(encoder(L)))                         (eq. 2)
    v(Z) = w_q at the largest Z_q,  w = 1 / ((1 - u) p + u / Q), of mean 1 over p                       (eq. 3, 4)
           p: how often training images have a bin's colour, spread by a Gaussian of deviation 5; u = 1/2

Source: Zhang, Isola and Efros, Colorful image colorization, https://arxiv.org/abs/1603.08511. Most of all pixels are
nearly grey: without v, grey is an answer to everything.

What is ours: the bins are those that a colour of sRGB falls into, counted from RGB itself (`training.colours`). Colours
are asked for at twice the resolution of the encoder's last map, as means over the pixels of a place; the paper has a
quarter of the image's. The head sees that last map alone, so that the *embedding*, which is that map, has to hold all.

`encode` takes RGB as every encoder does and takes the lightness of it in the exported graph: clients change nothing.
Grey images are refused, as there is nothing to ask for; so are RGB images that are all grey.

With several processes nothing is gathered: all count the same p, and the loss is a mean over rows and places. BatchNorm
sees all ranks.

Shape legend: B rows, C channels, H height, W width, h and w places, M = B h w, Q bins, K = 5 nearest bins, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentations import ViewConfig, Views
from training.colours import ColourBins, chroma, lightness, rebalancing, smoothed
from training.data import DataError, ImageShape
from training.data.lazy import batch_rows, parts_of
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.backbones import SMALL, build_backbone, with_patches
from training.networks.places import maps_of
from training.preprocessing import image_from_uint8
from training.schedule import LoopConfig, warmup_then_cosine

NUM_NEAREST, DEVIATION = 5, 5.0  # section 2.1 and eq. 4 of the paper
LEAST_CHROMA = 1.0  # of Lab: half of what an eye tells apart
ROWS_OF_PRIOR = 10_000
"""Of which colours are counted, taken evenly from the training rows: several hundred thousand places."""
CROPS = ViewConfig(crop_area_min=0.6, rotation_degrees=0.0, shear=0.0, elastic=0.0)


@dataclass(frozen=True)
class ColorizationConfig:
    """Hyperparameters of the method.

    Attributes:
        width: channels after the encoder's stem; its own: 16.
        bin_size: side of a bin of colours, in Lab.
        uniform: share of the even distribution that is mixed into how often colours are; 1: all bins weigh the same.
        learning_rate: highest learning rate, of AdamW.
        weight_decay: weight decay of weights; biases and BatchNorm have none.
        views: what happens to an image before it is parted.
    """

    width: int | None = None
    bin_size: float = 10.0
    uniform: float = 0.5
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    views: ViewConfig = field(default_factory=lambda: CROPS)

    def __post_init__(self) -> None:
        for name in ("width", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: got {value}, expected above 0")
        if not 5 <= self.bin_size <= 50:
            raise ValueError(f"bin_size: got {self.bin_size}, expected 5 to 50: some dozens to a thousand bins")
        if not 0 < self.uniform <= 1:
            raise ValueError(f"uniform: got {self.uniform}, expected above 0 and at most 1")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, expected 0 or greater")
        if self.views.jitter or self.views.grey_probability:
            got = f"{self.views.jitter}, {self.views.grey_probability}"
            raise ValueError(f"jitter, grey_probability: got {got}, expected 0, 0: colours are what is asked for")


def colour_loss(logits_MQ: Tensor, nearest_MK: Tensor, shares_MK: Tensor, weights_Q: Tensor) -> Tensor:
    """Mean over places, nats if all weights are 1. In float32 whatever the precision of the network."""
    # -v(Z) sum_q Z_q log softmax_q, where Z is 0 but for the nearest bins
    log_p_MK = logits_MQ.float().log_softmax(dim=1).gather(1, nearest_MK)
    return -(weights_Q[nearest_MK[:, 0]] * (shares_MK * log_p_MK).sum(dim=1)).mean()


class Colorization(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    weights_Q: Tensor

    def __init__(self, config: ColorizationConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.views = Views(config.views, shape.channels)
        self.encoder, _ = build_backbone(SMALL, 1, shape.size, config.width)
        with torch.no_grad():
            _, maps = maps_of(self.encoder.eval(), torch.zeros(1, 1, *shape.size))  # type: ignore[arg-type]
        self.encoder.train()
        last = maps[-1].shape[1:]
        self.places = 2 * last[1], 2 * last[2]
        self.bins = ColourBins(config.bin_size)
        self.register_buffer("weights_Q", torch.ones(len(self.bins)))
        self.head = nn.Sequential(
            nn.Unflatten(1, last),
            nn.Upsample(self.places),
            nn.Conv2d(last[0], last[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(last[0]),
            nn.ReLU(),
            nn.Conv2d(last[0], len(self.bins), 1),
        )

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D] of the lightness of RGB images."""
        h_BD, patches = with_patches(self.encoder, lightness(x_BCHW))
        return Encoding(h_BD, patches=patches)

    def colours(self, x_BCHW: Tensor) -> Tensor:
        """The mean a and b of each place, [M, 2], float32."""
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return F.adaptive_avg_pool2d(chroma(x_BCHW), self.places).movedim(1, 3).flatten(0, 2)

    def survey(self, values: Any) -> None:
        """See `training.methods.encoding.Surveyor`: counts how often places have a bin's colour."""
        some = values[:: -(-len(values) // ROWS_OF_PRIOR)]
        counts_Q, most = torch.zeros(len(self.bins), dtype=torch.float64), 0.0
        for part in parts_of(some, batch_rows(some)):
            ab_M2 = self.colours(image_from_uint8(torch.from_numpy(np.ascontiguousarray(part))))
            nearest_M1, _ = self.bins.nearest(ab_M2, 1, DEVIATION)
            counts_Q += nearest_M1[:, 0].bincount(minlength=len(counts_Q))
            most = max(most, float(ab_M2.abs().max()))
        if most < LEAST_CHROMA:
            raise DataError(f"data: got {len(some)} RGB images that are all grey, expected colours to learn from")
        smooth_Q = smoothed(counts_Q / counts_Q.sum(), self.bins.middle_Q2.double(), DEVIATION)
        self.weights_Q.copy_(rebalancing(smooth_Q, self.config.uniform))

    def told(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of some images, and the share of places whose likeliest bin is the nearest to their colour, []."""
        logits_BQhw = self.head(self.encoder(lightness(x_BCHW)))
        logits_MQ = logits_BQhw.movedim(1, 3).flatten(0, 2)
        nearest_MK, shares_MK = self.bins.nearest(self.colours(x_BCHW), NUM_NEAREST, DEVIATION)
        loss = colour_loss(logits_MQ, nearest_MK, shares_MK, self.weights_Q)
        return loss, (logits_MQ.argmax(dim=1) == nearest_MK[:, 0]).float().mean()

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        loss, found = self.told(self.views(image_from_uint8(x_BHWC)))
        figures = {"loss": loss, "bin_accuracy": found}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """The loss on unseen images, and how often their colours' bins are told."""
        loss, found = self.told(image_from_uint8(x_BHWC))
        self.log_dict({"test_loss": loss, "test_bin_accuracy": found}, batch_size=len(x_BHWC))

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
