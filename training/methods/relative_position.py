"""Relative position of patches: an encoder learns parts of images by telling how two of them lie to each other.

A patch is cut out of each image, and its eight neighbours around it. The encoder describes each patch alone, and a
small head says from two descriptions in which of the eight directions the second lies from the first. To tell, the
encoder has to know which part of what the patch shows; what is the same everywhere on an image is lost.

    +---+---+---+
    | 0 | 1 | 2 |      loss = -1/8 sum_{y=0..7} log softmax_y( head(f(centre), f(neighbour y)) )     (section 3)
    | 3 |   | 4 |
    | 5 | 6 | 7 |      f: the encoder; the mean over images
    +---+---+---+

Source: Doersch, Gupta and Efros, Unsupervised visual representation learning by context prediction,
https://arxiv.org/abs/1505.05192. Its guards against answers that need no understanding (section 3.1): a *gap* between
patches and a *shift* of each by some pixels, so that no edge and no line goes on from one to the next; and colours,
since a lens bends them apart by an amount that tells the place: two of three channels of a patch are *dropped* for
noise, or green against magenta is *projected* away. Left out is the third, patches of few pixels enlarged: ours are.

What is ours: all eight pairs of an image at once, for nine encodings. The grid lies where all nine fit, so the centre's
place says nothing of the answer. Patches are a quarter of the image, 8 pixels of CIFAR-10's 32. The encoder is
convolutions without padding (`training.networks.patches`), whose field of view is the patch: it goes over a whole image
as over one patch, and gives a map of features. The *embedding* is the mean feature of each quarter of the image, as of
our CPC. Where colours are projected, they are so in `encode`, too; dropping is for training alone, as in the paper.

With several processes nothing is gathered: the loss is a mean over rows, and no layer looks at other rows.

Shape legend: B rows, C channels, H height, W width, P pixels along a patch, D feature, G places along a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augmentations import ViewConfig, Views
from training.data import ImageShape
from training.lightning import LightningModule, OptimizerLRSchedulerConfig
from training.methods.encoding import Encoding
from training.networks.patches import PatchEncoder
from training.networks.places import patches_of
from training.preprocessing import image_from_uint8
from training.ranks import mine, num_of_all
from training.schedule import LoopConfig, warmup_then_cosine

DIRECTIONS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))
SMALLEST_PATCH = 4
MAGENTA = (-1.0, 2.0, -1.0)  # green against red and blue: section 3.1 of the paper
NOISE = 0.01  # of dropped channels, in deviations of the one that is left: section 3.1
CROPS = ViewConfig(crop_area_min=0.6, rotation_degrees=0.0, shear=0.0, elastic=0.0)


@dataclass(frozen=True)
class RelativePositionConfig:
    """Hyperparameters of the method.

    Attributes:
        patch_size: pixels along a patch; None: a quarter of the image's shorter side.
        gap: pixels between patches; None: a quarter of a patch.
        shift: pixels by which a neighbour may lie to either side of its place; None: an eighth of a patch.
        colours: drop, project or keep; None: drop of RGB, keep of grey images, which have none.
        width: channels of the first layer.
        feature_dim: size of a feature, D; the embedding is four of them.
        hidden_dim: size of the head's hidden layer.
        learning_rate: highest learning rate, of Adam.
        views: what happens to an image before it is cut.
    """

    patch_size: int | None = None
    gap: int | None = None
    shift: int | None = None
    colours: Literal["drop", "project", "keep"] | None = None
    width: int = 32
    feature_dim: int = 256
    hidden_dim: int = 256
    learning_rate: float = 2e-3
    views: ViewConfig = field(default_factory=lambda: CROPS)

    def __post_init__(self) -> None:
        for name in ("width", "feature_dim", "hidden_dim", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected above 0")
        for name in ("gap", "shift"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: got {value}, expected 0 or greater")
        if self.patch_size is not None and self.patch_size < SMALLEST_PATCH:
            raise ValueError(f"patch_size: got {self.patch_size}, expected {SMALLEST_PATCH} or more")

    def cut(self, height: int, width: int) -> Cut:
        """How patches are cut out of images of a size.

        Raises:
            ValueError: nine patches of at least 4 pixels do not fit.
        """
        size = min(height, width) // 4 if self.patch_size is None else self.patch_size
        gap = size // 4 if self.gap is None else self.gap
        cut = Cut(size, gap, size // 8 if self.shift is None else self.shift)
        if size < SMALLEST_PATCH or cut.side > min(height, width):
            raise ValueError(
                f"patch_size: got {size} pixels with gaps of {gap} and shifts of {cut.shift} on images of {height} x"
                f" {width}, where nine take {cut.side} a side; expected them to fit, each of {SMALLEST_PATCH} or more"
            )
        return cut


@dataclass(frozen=True)
class Cut:
    """How patches are cut, in pixels.

    Attributes:
        size: P, along a patch.
        gap: between patches.
        shift: to either side.
    """

    size: int
    gap: int
    shift: int

    @property
    def side(self) -> int:
        """What all nine take along a side."""
        return 3 * self.size + 2 * self.gap + 2 * self.shift


def nine_patches(x_BCHW: Tensor, cut: Cut) -> Tensor:
    """The centre of each row and its neighbours in the order of `DIRECTIONS`, [B, 9, C, P, P].

    The grid lies anywhere where it fits; each neighbour is shifted by a draw of its own, the centre is not.
    """
    num_rows, device = len(x_BCHW), x_BCHW.device
    draws_B92 = mine(torch.rand(num_of_all(num_rows), 9, 2, device=device))
    room_2 = torch.tensor(x_BCHW.shape[2:], device=device) - cut.side
    corner_B2 = cut.shift + cut.size + cut.gap + (draws_B92[:, 0] * (room_2 + 1)).long()
    steps_82 = torch.tensor(DIRECTIONS, device=device) * (cut.size + cut.gap)
    shifts_B82 = (draws_B92[:, 1:] * (2 * cut.shift + 1)).long() - cut.shift
    corners_B92 = torch.cat([corner_B2[:, None], corner_B2[:, None] + steps_82 + shifts_B82], dim=1)
    pixels_P = torch.arange(cut.size, device=device)
    y_B9P1 = (corners_B92[..., :1] + pixels_P)[..., None]
    x_B91P = (corners_B92[..., 1:] + pixels_P)[..., None, :]
    rows_B = torch.arange(num_rows, device=device)[:, None, None, None]
    return x_BCHW.movedim(1, 3)[rows_B, y_B9P1, x_B91P].movedim(4, 2)


def dropped(patches_B9CPP: Tensor) -> Tensor:
    """Patches of which one channel in three is left, and noise around grey is in the place of the others."""
    shape = (num_of_all(len(patches_B9CPP)), *patches_B9CPP.shape[1:])
    device = patches_B9CPP.device
    kept_B9 = mine(torch.randint(3, shape[:2], device=device))
    noise_B9CPP = mine(torch.randn(shape, device=device)).to(patches_B9CPP.dtype)
    is_kept_B9C11 = F.one_hot(kept_B9, 3).bool()[..., None, None]
    left_B91PP = (patches_B9CPP * is_kept_B9C11).sum(dim=2, keepdim=True)
    deviation_B9111 = left_B91PP.std(dim=(3, 4), keepdim=True)
    return torch.where(is_kept_B9C11, patches_B9CPP, 0.5 + NOISE * deviation_B9111 * noise_B9CPP)


def projected(x_BCHW: Tensor) -> Tensor:
    """Colours without their part along a = green - magenta: (I - a a' / a'a) x."""
    a_C11 = torch.tensor(MAGENTA, dtype=x_BCHW.dtype, device=x_BCHW.device)[:, None, None]
    along_B1HW = (x_BCHW * a_C11).sum(dim=1, keepdim=True) / sum(one * one for one in MAGENTA)
    return x_BCHW - along_B1HW * a_C11


def position_loss(logits_B88: Tensor) -> Tensor:
    """Mean over rows and neighbours, nats; who cannot tell has log 8. Logits [b, y] are those of neighbour y."""
    # -log softmax_y at neighbour y
    answers_8 = torch.arange(len(DIRECTIONS), device=logits_B88.device)
    return F.cross_entropy(logits_B88.float().flatten(0, 1), answers_8.repeat(len(logits_B88)))


class RelativePosition(LightningModule):
    """The model and its training step. `encode` is what is exported."""

    def __init__(self, config: RelativePositionConfig, loop: LoopConfig, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.loop = loop
        self.cut = config.cut(*shape.size)
        self.colours = config.colours or ("drop" if shape.channels == 3 else "keep")
        if self.colours != "keep" and shape.channels != 3:
            raise ValueError(
                f"colours: got {self.colours} for images of {shape.channels} channel, expected keep: only RGB images"
                " have colours"
            )
        self.views = Views(config.views, shape.channels)
        stride = 2 ** int(math.log2(self.cut.size / 2))  # half a patch or less
        self.encoder = PatchEncoder(shape.channels, self.cut.size, stride, config.width, config.feature_dim)
        self.head = nn.Sequential(
            nn.Linear(2 * config.feature_dim, config.hidden_dim),
            nn.LayerNorm(config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, len(DIRECTIONS)),
        )

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding [B, 4 D]: the mean feature of each quarter of the image; patches [B, G, G, D]."""
        z_BDGG = self.encoder(projected(x_BCHW) if self.colours == "project" else x_BCHW)
        return Encoding(F.adaptive_avg_pool2d(z_BDGG, 2).flatten(1), patches=patches_of([z_BDGG]))

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """What the head says of each of eight pairs, [B, 8, 8]."""
        patches_B9CPP = nine_patches(projected(x_BCHW) if self.colours == "project" else x_BCHW, self.cut)
        if self.colours == "drop":
            patches_B9CPP = dropped(patches_B9CPP)
        f_B9D = self.encoder(patches_B9CPP.flatten(0, 1)).view(*patches_B9CPP.shape[:2], -1)
        pairs_B8F = torch.cat([f_B9D[:, :1].expand(-1, len(DIRECTIONS), -1), f_B9D[:, 1:]], dim=2)
        logits_B88: Tensor = self.head(pairs_B8F)
        return logits_B88

    def training_step(self, x_BHWC: Tensor, batch_idx: int) -> Tensor:
        """One step on uint8 images."""
        logits_B88 = self.logits(self.views(image_from_uint8(x_BHWC)))
        loss = position_loss(logits_B88)
        figures = {"loss": loss, "position_accuracy": told(logits_B88)}
        self.log_dict(figures, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x_BHWC))
        return loss

    def test_step(self, x_BHWC: Tensor, batch_idx: int) -> None:
        """How often a direction is told on unseen images; chance is 1/8."""
        self.log("test_position_accuracy", told(self.logits(image_from_uint8(x_BHWC))), batch_size=len(x_BHWC))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        return warmup_then_cosine(optimizer, self.loop, int(self.trainer.estimated_stepping_batches))


def told(logits_B88: Tensor) -> Tensor:
    """Share of neighbours whose direction is the likeliest, []."""
    answers_8 = torch.arange(len(DIRECTIONS), device=logits_B88.device)
    return (logits_B88.argmax(dim=2) == answers_8).float().mean()
