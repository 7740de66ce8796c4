"""PixelCNN: the likelihood of an image, pixel by pixel or block by block, each given those before it.

A gated PixelCNN predicts every pixel from the pixels above it and to the left of it, and learns to make the real one
likely. All pixels of a known image are predicted in one pass, so its likelihood is exact and costs what an encoder of
that size costs; only to draw a new image takes a pass for each pixel.

    log p(x) = sum_i log p(x_i | x_1, ..., x_(i - 1)),     loss = -log p(x), nats                              (eq. 1)

With `background` a second network of the same size is trained beside it on rows some of whose pixels are drawn anew.
It learns what rows have apart from what is drawn on them, and the ratio of both likelihoods is a detector [2].

Sources: [1] van den Oord et al., Conditional image generation with PixelCNN decoders, https://arxiv.org/abs/1606.05328;
the likelihood of 256 levels: Salimans et al., PixelCNN++, https://arxiv.org/abs/1701.05517; [2] Ren et al., Likelihood
ratios for out-of-distribution detection, https://arxiv.org/abs/1906.02845; which layer is a feature: Chen et al.,
Generative pretraining from pixels, ICML 2020, figure 2.

What is ours: the *embedding* is the middle layer's features, averaged over the 4 x 4 parts of the image. No place of
such a network sees the whole image, so a vector of all of it has to be pooled; the last layer is about the next pixel
only, and the middle ones say more of what is drawn. What such an embedding is good for is a by-product: `nll`, an
output of its own, is what the model is for, and detectors are made of it (`export.detectors.likelihood`).

With `binarise` the likelihood is that of pixels 0 and 1. `block` 2 predicts four of them at once, as one of their 16
patterns: exact all the same, for a quarter of the work (`training.networks.pixels`). Served images are cut at 0.5
whatever they are trained on, so that an answer does not depend on chance.

With several processes the loss is a mean over rows, so DDP's mean over ranks is all there is to it.

Shape legend: B rows, C channels, H height, W width, F features of a place, O outputs of a place, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.pixelcnn import PixelCnn, PixelCnnSize, drawn
from training.networks.pixels import Binarise, binarised, bits_per_dim, pixels_of
from training.preprocessing import image_from_uint8
from training.ranks import among_all, mine
from training.schedule import LoopConfig, warmup_then_cosine

CELLS = 4
"""Parts of the image along a side, of which the embedding has the mean features."""


@dataclass(frozen=True)
class PixelCnnConfig:
    """Hyperparameters of the method.

    Attributes:
        width: features of a place, F.
        num_layers: gated layers.
        kernel: side of the square that a layer's receptive field is the upper half of; odd. The first one's is 7.
        num_parts: logistics in the mixture of 256 levels; used unless pixels are binarised.
        binarise: pixels for training and nats: `none`, `dynamic` (drawn anew each time) or `threshold` (at 0.5).
        block: side of the squares of binarised pixels that are predicted at once, as one of all their patterns.
        background: share of the pixels that are drawn anew for a second network, which learns the background; 0: there
            is no second one.
        learning_rate: highest learning rate of Adam.
    """

    width: int = 32
    num_layers: int = 7
    kernel: int = 3
    num_parts: int = 5
    binarise: Binarise = "none"
    block: int = 1
    background: float = 0.0
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_parts", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if not 0 <= self.background < 1:
            raise ValueError(f"background: got {self.background}, expected 0 or greater, below 1")
        _ = self.size  # which has a check of its own

    @property
    def size(self) -> PixelCnnSize:
        """Of the network."""
        return PixelCnnSize(self.width, self.num_layers, self.kernel)


def mutated(x_BCHW: Tensor, share: float, num_levels: int) -> Tensor:
    """The images with that share of their pixels, all channels of each, drawn evenly from so many levels, 0 to 1."""
    others_BCHW = mine(torch.randint_like(among_all(x_BCHW), num_levels)) / (num_levels - 1)
    chosen_B1HW = mine(torch.rand_like(among_all(x_BCHW[:, :1]))) < share
    return torch.where(chosen_B1HW, others_BCHW, x_BCHW)


class PixelDensity(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: PixelCnnConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.sides = (shape.channels, *shape.size)
        self.pixels = pixels_of(shape, config.binarise, config.block, config.num_parts)
        ends = (self.pixels.numbers, self.pixels.outputs)
        self.net = PixelCnn(*ends, config.size)
        self.background = PixelCnn(*ends, config.size) if config.background else None

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, D], -log p(x) [B, 1], and that of the background where it has a model."""
        x_BCHW = binarised(x_BCHW, "none" if self.config.binarise == "none" else "threshold")
        grid_BGhw = self.pixels.grid(x_BCHW)
        features = self.net.features(grid_BGhw)
        nll_B = self.pixels.nll(self.net.head(features[-1]), grid_BGhw)
        middle_BFHW = features[len(features) // 2]
        background = None if self.background is None else self.nll(x_BCHW, self.background)[:, None]
        return Encoding(pooled(middle_BFHW), nll=nll_B[:, None], background_nll=background)

    def nll(self, x_BCHW: Tensor, net: PixelCnn) -> Tensor:
        """-log p(x) of each row, [B], nats."""
        grid_BGhw = self.pixels.grid(x_BCHW)
        return self.pixels.nll(net(grid_BGhw), grid_BGhw)

    def samples(self, num_rows: int) -> Tensor:
        """New images, [B, C, H, W], 0 to 1; a pass for each place."""
        x_BCHW = torch.zeros(num_rows, *self.sides, device=self.device)
        return self.pixels.image(drawn(self.net, self.pixels.draw, self.pixels.grid(x_BCHW)))

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        x_BCHW = binarised(image_from_uint8(x_BHWC), self.config.binarise)
        loss = nll = self.nll(x_BCHW, self.net).mean()
        figures = {"nll_nats": nll}
        if self.background is not None:
            num_levels = 256 if self.config.binarise == "none" else 2
            noisy_BCHW = mutated(x_BCHW, self.config.background, num_levels)
            figures["background_nats"] = self.nll(noisy_BCHW, self.background).mean()
            loss = nll + figures["background_nats"]
        self.log_dict({"loss": loss, **figures}, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """Nats on rows that were not trained on, and unless pixels are binarised bits of each number."""
        x_BCHW = binarised(image_from_uint8(x_BHWC), self.config.binarise)
        nats = self.nll(x_BCHW, self.net).mean()
        self.log("test_nll_nats", nats, batch_size=len(x_BHWC))
        if self.config.binarise == "none":
            self.log("test_bits_per_dim", bits_per_dim(nats, x_BCHW.shape[1:]), batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))


def pooled(x_BFHW: Tensor) -> Tensor:
    """Means over `CELLS` x `CELLS` parts of the image, [B, 16 F]; of a side below `CELLS` some are empty, and 0."""
    height, width = (_shares(int(side)).to(x_BFHW) for side in x_BFHW.shape[2:])
    # two products: average pooling wants parts that are all as large
    return (height.T @ x_BFHW @ width).flatten(1)


def _shares(side: int) -> Tensor:
    """What a place adds to the mean of each part, [side, CELLS]."""
    part_of_place = F.one_hot(torch.arange(side) * CELLS // side, CELLS).float()
    return part_of_place / part_of_place.sum(dim=0).clamp_min(1)
