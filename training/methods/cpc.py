"""Contrastive predictive coding (CPC) of images: predict the features of patches not yet seen, not their pixels.

An image is cut into a grid of overlapping patches, each encoded alone to a feature z. A causal network sums up the
rows read so far in a context c, and linear heads predict from it the features of the same column some rows further
on. A prediction must find its patch among other patches of its image and among those that other images have there.

    c_ij = context(z of rows <= i)                                                  (section 3.2; figure 4)
    loss = mean over directions, steps k and places of  InfoNCE(W_k c_ij -> z_i+k,j)              (eq. 3 and 4)

Sources: van den Oord, Li and Vinyals, https://arxiv.org/abs/1807.03748; several directions, LayerNorm, patches
augmented each by itself: Henaff et al., https://arxiv.org/abs/1905.09272 (CPC v2), section 3.2.

What is ours: cosine scores with a temperature, which a CPU learns from in minutes. The patch encoder has no padding,
so that one pass over the whole image gives just what each patch would give alone: training cuts and jitters patches,
serving does not cut. No BatchNorm anywhere: through it patches would tell each other what to predict.

With several processes the targets of all ranks are contrasted at a place, with gradient; a rank predicts for its own
rows. What is contrasted within an image needs no other rank.

Shape legend: B rows, A rows of all ranks, C channels, H height, W width, G patches along a side, P pixels along a
patch, D feature of a patch, E context, T what is contrasted; in `info_nce` N predictions, M targets, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.patches import ChannelNorm, Jitter, PatchEncoder, jittered_patches
from training.networks.places import patches_of
from training.preprocessing import image_from_uint8
from training.ranks import gathered, num_ranks, rank
from training.schedule import LoopConfig, warmup_then_cosine

TARGET_DIM = 64  # of what is contrasted: CPC v2, appendix A
CONTEXT_LAYERS = 2


@dataclass(frozen=True)
class CpcConfig:
    """Hyperparameters of the method.

    Attributes:
        patch_size: pixels along a patch, P; default: three strides.
        patch_stride: pixels from patch to patch, a power of two; default: that nearest an eighth of the image.
        width: channels after the first convolution; doubled at each halving.
        feature_dim: size of the feature of a patch, D.
        context_dim: size of a context, for each direction.
        num_directions: 1 reads the grid from the top; 2 to 4 add what it is after as many quarter turns.
        first_step: rows ahead of the nearest prediction. Nearer rows share pixels with what was read.
        last_step: rows ahead of the furthest prediction, as far as the grid goes.
        same_image: share of the loss that contrasts patches of one image; the rest contrasts images at one place.
        temperature: what cosine similarities are divided by.
        learning_rate: highest learning rate of Adam.
        jitter: how far training patches are moved.
    """

    patch_size: int | None = None
    patch_stride: int | None = None
    width: int = 32
    feature_dim: int = 256
    context_dim: int = 64
    num_directions: int = 4
    first_step: int = 2
    last_step: int = 4
    same_image: float = 0.5
    temperature: float = 0.1
    learning_rate: float = 2e-3
    jitter: Jitter = field(default_factory=Jitter)

    def __post_init__(self) -> None:
        for name in ("width", "feature_dim", "context_dim", "first_step", "temperature", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        if not 1 <= self.num_directions <= 4:
            raise ValueError(f"num_directions: got {self.num_directions}, expected 1 to 4")
        if not 0 <= self.same_image <= 1:
            raise ValueError(f"same_image: got {self.same_image}, expected 0 to 1")
        if self.last_step < self.first_step:
            raise ValueError(f"last_step: got {self.last_step}, expected first_step ({self.first_step}) or more")

    def grid(self, image_size: int) -> tuple[int, int, int]:
        """Patch size, stride (pixels) and patches along a side for an image.

        Raises:
            ValueError: the image is too small for a patch, or for one step ahead.
        """
        stride = self.patch_stride or 2 ** max(0, round(math.log2(image_size / 8)))
        size = self.patch_size or 3 * stride
        if stride & (stride - 1) or stride > size:
            raise ValueError(f"patch_stride: got {stride}, expected a power of two up to patch_size ({size})")
        side = (image_size - size) // stride + 1
        if side <= self.first_step:
            raise ValueError(
                f"patch_size: got {size} with stride {stride} on images of {image_size} pixels, {max(side, 0)} patches"
                f" a side; expected more than first_step ({self.first_step}): take smaller patches or a smaller stride"
            )
        return size, stride, side


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
        candidates_NM: bool [N, M] or [..., N, M], which targets each prediction is compared with: its own image or
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
    return loss_N.reshape(positives_N.shape)


def step_losses(
    predictions_BGGT: Tensor, targets_BGGT: Tensor, step: int, temperature: float, everyones: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean InfoNCE of predicting `step` rows down: among all patches of the image, and among all images at a place.

    The first keeps the texture of an image from giving the answer away, the second the place in the grid.
    Images are those of the rows, or `everyones`, [A, G, G, T].
    """
    num_rows, side, _, _ = targets_BGGT.shape
    everyones = targets_BGGT if everyones is None else everyones
    given_BGGT = predictions_BGGT[:, : side - step]
    patches_ahead = torch.arange(step * side, side * side, device=targets_BGGT.device)
    same_image = info_nce(given_BGGT.flatten(1, 2), targets_BGGT.flatten(1, 2), patches_ahead, temperature)
    given_GGBT, targets_GGAT = given_BGGT.movedim(0, 2), everyones[:, step:].movedim(0, 2)
    own_B = rank() * num_rows + torch.arange(num_rows, device=given_GGBT.device)
    other_images = info_nce(given_GGBT, targets_GGAT, own_B, temperature)
    return same_image.mean(), other_images.mean()


class RowContext(nn.Module):
    """features [B, D, G, G] -> context [B, E, G, G], which at row i has seen rows up to i and nothing below.

    A convolution two rows high and three columns wide, padded above: the masked half of a 3 x 3 kernel, left out.
    """

    def __init__(self, feature_dim: int, context_dim: int) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(feature_dim, context_dim, 1)
        self.norms = nn.ModuleList(ChannelNorm(context_dim) for _ in range(CONTEXT_LAYERS))
        self.convs = nn.ModuleList(nn.Conv2d(context_dim, context_dim, (2, 3)) for _ in range(CONTEXT_LAYERS))
        self.outlet = ChannelNorm(context_dim)

    def forward(self, z_BDGG: Tensor) -> Tensor:
        """See the class."""
        c_BEGG = self.inlet(z_BDGG)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            c_BEGG = c_BEGG + conv(F.pad(F.relu(norm(c_BEGG)), (1, 1, 1, 0)))
        return F.relu(self.outlet(c_BEGG))


class Cpc(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: CpcConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        height, width = shape.size
        if height != width:
            raise ValueError(f"image_size: got {height}x{width}, expected a square such as {height} for cpc")
        self.patch_size, self.stride, side = config.grid(height)
        self.steps = range(config.first_step, min(config.last_step, side - 1) + 1)
        self.encoder = PatchEncoder(shape.channels, self.patch_size, self.stride, config.width, config.feature_dim)
        self.target_head = nn.Conv2d(config.feature_dim, TARGET_DIM, 1)
        directions = range(config.num_directions)
        self.contexts = nn.ModuleList(RowContext(config.feature_dim, config.context_dim) for _ in directions)
        heads = TARGET_DIM * len(self.steps)
        self.prediction_heads = nn.ModuleList(nn.Conv2d(config.context_dim, heads, 1) for _ in directions)

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, 4 D]: the mean feature of each quarter of the image; patches [B, G, G, D]."""
        z_BDGG = self.encoder(x_BCHW)
        return Encoding(F.adaptive_avg_pool2d(z_BDGG, 2).flatten(1), patches=patches_of([z_BDGG]))

    def patch_features(self, x_BCHW: Tensor) -> Tensor:
        """Features [B, D, G, G] of jittered patches, each encoded alone."""
        patches_BGGCPP = jittered_patches(x_BCHW, self.patch_size, self.stride, self.config.jitter)
        z_ND: Tensor = self.encoder(patches_BGGCPP.flatten(0, 2))
        return z_ND.view(*patches_BGGCPP.shape[:3], -1).movedim(3, 1)

    def losses(self, z_BDGG: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE among the patches of an image, and among the images at a place: means over directions and steps."""
        targets_BTGG = F.normalize(self.target_head(z_BDGG), dim=1)
        targets_ATGG = gathered(targets_BTGG)
        found = []
        for turns, (context, head) in enumerate(zip(self.contexts, self.prediction_heads, strict=True)):
            predictions = head(context(z_BDGG.rot90(turns, (2, 3)))).chunk(len(self.steps), dim=1)
            turned_BGGT = targets_BTGG.rot90(turns, (2, 3)).movedim(1, 3)
            everyones = None if num_ranks() == 1 else targets_ATGG.rot90(turns, (2, 3)).movedim(1, 3)
            for step, predictions_BTGG in zip(self.steps, predictions, strict=True):
                predictions_BGGT = F.normalize(predictions_BTGG, dim=1).movedim(1, 3)
                found.append(step_losses(predictions_BGGT, turned_BGGT, step, self.config.temperature, everyones))
        same_image, other_images = torch.stack([torch.stack(pair) for pair in found]).mean(dim=0)
        return same_image, other_images

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        same_image, other_images = self.losses(self.patch_features(image_from_uint8(x_BHWC)))
        loss = self.config.same_image * same_image + (1 - self.config.same_image) * other_images
        self.log_dict(
            {"loss": loss, "same_image_nats": same_image, "other_images_nats": other_images},
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(x_BHWC),
        )
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """On rows that were not trained on, without jitter. Among the patches of one image: free of the batch size."""
        same_image, _ = self.losses(self.encoder(image_from_uint8(x_BHWC)))
        self.log("test_same_image_nats", same_image, batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))
