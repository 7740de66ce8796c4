"""A network that was trained elsewhere as an encoder: colours, mean and deviation, the network, pooling.

All of it is one torch module and so one graph: the service sends pixels as they are.

Shape legend: B rows, C channels, H height, W width, T tokens, D embedding, h and w places.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.sources.source import Order, SourceError
from latentserve.inputs import AudioInput, ImageInput
from training.methods.encoding import Encoder, Encoding

CHOICES = ("auto", "cls", "mean", "pooled")
EXAMPLE_ROWS = 3
SMALLEST_LENGTH = 1e-12
"""torch's own for `F.normalize`."""
BATCH_TOLERANCE = 1e-3
"""A share of the embedding's largest absolute value. Kernels of other batch sizes round in another way: 1e-6."""


class Features(NamedTuple):
    """What a network makes of rows.

    Attributes:
        pooled: float [B, D], the network's own vector for a row, or None.
        tokens: float [B, T, D], or None.
        map: float [B, D, h, w], or None.
        num_before: tokens that are of no place: the first is the class's, if there are any.
        grid: h and w of the other tokens; None: square.
    """

    pooled: Tensor | None = None
    tokens: Tensor | None = None
    map: Tensor | None = None
    num_before: int = 0
    grid: tuple[int, int] | None = None

    @property
    def places(self) -> Tensor | None:
        """A vector for each place, float [B, h, w, D], or None."""
        if self.map is not None:
            return self.map.permute(0, 2, 3, 1)
        if self.tokens is None:
            return None
        patches_BTD = self.tokens[:, self.num_before :]
        grid = self.grid or (side := round(patches_BTD.shape[1] ** 0.5), side)
        if grid[0] * grid[1] != patches_BTD.shape[1]:
            return None
        return patches_BTD.reshape(len(patches_BTD), *grid, patches_BTD.shape[-1])


class Backbone(nn.Module):
    """A network of some library."""

    def features(self, x: Tensor) -> Features:
        """Of images [B, C, H, W] that are normalised, or of waveforms [B, T]."""
        raise NotImplementedError


class ImportedEncoder(nn.Module):
    """See the module.

    Args:
        backbone: the network.
        embedding: which of its features is the embedding: one of `CHOICES`; `auto`: pooled.
        mean: of each channel; none: rows are given to the network as they are.
        std: of each channel.
        order: of the colours, as the network takes them.
        normalise: whether embeddings are scaled to length 1.
        patches: whether there are patches, too.
    """

    mean_C: Tensor | None
    std_C: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        embedding: str = "auto",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        order: Order = "RGB",
        normalise: bool = False,
        patches: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.embedding = backbone, embedding
        self.order, self.normalise, self.patches = order, normalise, patches
        has_mean = mean is not None or std is not None
        num = len(mean or std or ())
        self.register_buffer("mean_C", torch.tensor(mean or (0.0,) * num) if has_mean else None)
        self.register_buffer("std_C", torch.tensor(std or (1.0,) * num) if has_mean else None)

    def encode(self, x: Tensor) -> Encoding:
        """See `Encoder`."""
        return self.encoding(self.backbone.features(self.prepared(x)))

    def prepared(self, x: Tensor) -> Tensor:
        """What the network takes, of images 0 to 1 or waveforms."""
        if self.order == "BGR":
            x = x.flip(1)
        if self.mean_C is not None and self.std_C is not None:
            x = (x - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        return x

    def encoding(self, features: Features) -> Encoding:
        """The embedding as it was asked for.

        Raises:
            SourceError: the network has none such.
        """
        embedding_BD = _chosen(features, self.embedding)
        if self.normalise:
            embedding_BD = F.normalize(embedding_BD, dim=1, eps=SMALLEST_LENGTH)
        places = features.places if self.patches else None
        if self.patches and places is None:
            raise SourceError("patches: got auto, but the network gives no vectors for places in an image")
        return Encoding(embedding_BD, patches=None if places is None else places.contiguous())


def _chosen(features: Features, embedding: str) -> Tensor:
    if embedding not in CHOICES:
        raise SourceError(f"embedding: got {embedding!r}, expected one of {', '.join(CHOICES)}")
    if embedding in ("auto", "pooled"):
        if features.pooled is not None:
            return features.pooled
        raise SourceError(f"embedding: got {embedding}, but {_instead(features)}")
    if embedding == "cls":
        if features.tokens is None or features.num_before < 1:
            raise SourceError("embedding: got cls, but the network has no class token; say --embedding mean or pooled")
        return features.tokens[:, 0]
    if features.map is not None:
        return features.map.mean(dim=(2, 3))
    if features.tokens is not None:
        return features.tokens[:, features.num_before :].mean(dim=1)
    raise SourceError("embedding: got mean, but the network gives one vector for a row; say --embedding pooled")


def _instead(features: Features) -> str:
    if features.tokens is not None:
        num = features.tokens.shape[1]
        said = "cls or --embedding mean" if features.num_before else "mean"
        return f"the network gives a sequence of {num} vectors for a row and none for all of it; say --embedding {said}"
    if features.map is not None:
        size = " x ".join(map(str, features.map.shape[2:]))
        return f"the network gives a map of {size} vectors for a row and none for all of it; say --embedding mean"
    return "the network gives nothing for a row that could be one"


def checked(model: ImportedEncoder, given: ImageInput | AudioInput) -> Encoder:
    """The model in eval mode, in float32, if it encodes and knows nothing of a batch.

    Args:
        model: as its source made it.
        given: what a row is.

    Raises:
        SourceError: it does not.
    """
    model = model.float().eval().requires_grad_(False)
    try:
        with torch.no_grad():
            example = noise(given)
            together, again, alone = (model.encode(rows).embedding for rows in (example, example, example[:1]))
    except SourceError:
        raise
    except Exception as error:  # whatever the network's library raises
        size = list(given.spec.shape)
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        raise SourceError(f"the network takes no rows of {size} ({said}); --image-size says another size") from error
    if together.ndim != 2:
        raise SourceError(f"embedding: got a tensor of {list(together.shape)}, expected [rows, numbers]")
    if together.dtype != torch.float32:
        got = str(together.dtype).removeprefix("torch.")
        raise SourceError(f"embedding: got numbers of type {got} of the network, expected float32")
    if not torch.isfinite(together).all():
        raise SourceError(
            "embedding: got NaN or infinity for an image of noise, expected numbers: are the weights whole?"
        )
    _check_same_again(together, again)
    check_rows_alone(together, alone)
    return cast(Encoder, model)


def check_patches(image_size: tuple[int, int] | None, patch: object) -> None:
    """Raises SourceError if whole patches do not cover images of a size that a user says.

    Args:
        image_size: height and width; None: the network's own, which may be such.
        patch: of the network: height and width, or one number for both; anything else: it has none.
    """
    pair = (patch, patch) if isinstance(patch, int) else tuple(patch) if isinstance(patch, (tuple, list)) else ()
    if image_size is None or len(pair) != 2:
        return
    if any(side % one for side, one in zip(image_size, pair, strict=True)):
        raise SourceError(
            f"image_size: got {image_size[0]} x {image_size[1]}, expected multiples of {pair[0]} x {pair[1]}, the"
            " network's patches: what lies beyond the last whole one would never be seen"
        )


def noise(given: ImageInput | AudioInput) -> Tensor:
    """Rows as `encode` takes them."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(given, ImageInput):
        return torch.rand(EXAMPLE_ROWS, given.channels, given.height, given.width, generator=generator)
    return torch.rand(EXAMPLE_ROWS, given.num_samples, generator=generator) - 0.5


def _check_same_again(once: Tensor, again: Tensor) -> None:
    off = float((once - again).abs().max())
    if not off <= _tolerance(once) and bool(once.isfinite().all()):
        raise SourceError(
            f"the network's answer changes from call to call: an embedding is {off:.3g} off the second time, expected"
            " the same each time; it draws at random although it is in eval mode: call"
            " F.dropout(x, training=self.training), or leave dropout and noise out"
        )


def _tolerance(embedding: Tensor) -> float:
    return BATCH_TOLERANCE * max(float(embedding.abs().max()), SMALLEST_LENGTH)


def check_rows_alone(together: Tensor, alone: Tensor) -> None:
    """Raises SourceError if the first row's embedding depends on the rows beside it."""
    off = float((together[:1] - alone).abs().max())
    if not off <= _tolerance(together):  # NaN, too
        raise SourceError(
            f"the network depends on the batch: a row's embedding is {off:.3g} off if others stand beside it, expected"
            " the same; it takes mean and deviation of the batch: give BatchNorm its running statistics"
            " (track_running_stats=True, training=False), or take a norm of each row (LayerNorm, GroupNorm)"
        )
