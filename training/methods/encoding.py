"""What every method's model does, whatever its loss: it encodes rows, and some models decode latents.

Evaluation and export know a trained model by these protocols alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn


class Encoding(NamedTuple):
    """One row per input; B rows, D embedding, L latent.

    Attributes:
        embedding: float [B, D], what probes and clients use.
        latent: float [B, L], what `decode` takes (the posterior mean), or None if nothing decodes.
        latent_scale: float [B, L], the posterior's standard deviation, or None if there is none.
        patches: float [B, h, w, D], a vector for each place, or None if they are not kept.
        codes: int16 [B, h, w], the name of the vector that each place became, or None if nothing is quantised.
        nll: float [B, 1], -log p(x) in nats, or None if the model is no density.
        background_nll: float [B, 1], the same by a model of noisy rows, or None if there is none beside it.
    """

    embedding: Tensor
    latent: Tensor | None = None
    latent_scale: Tensor | None = None
    patches: Tensor | None = None
    codes: Tensor | None = None
    nll: Tensor | None = None
    background_nll: Tensor | None = None


@runtime_checkable
class Encoder(Protocol):
    """A torch module with a method `encode`."""

    def encode(self, x: Tensor, /) -> Encoding:
        """Encodes float images [B, C, H, W], 0 to 1, or waveforms [B, T], -1 to 1."""
        ...

    def eval(self) -> Self:
        """See `torch.nn.Module`."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """See `torch.nn.Module`."""
        ...

    def to(self, device: torch.device, /) -> Self:
        """See `torch.nn.Module`."""
        ...

    def double(self) -> Self:
        """See `torch.nn.Module`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """See `torch.nn.Module`."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """A model that also turns latents into rows."""

    def decode(self, z_BL: Tensor, /) -> Tensor:
        """Decodes latents to images, float [B, C, H, W], 0 to 1."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A model that also makes images of noise."""

    def samples(self, num_rows: int, /) -> Tensor:
        """Draws images by torch's own generator, float [N, C, H, W], 0 to 1; N is num_rows, or 0 without a prior."""
        ...


@runtime_checkable
class Dreamer(Protocol):
    """A model that goes from an image to one much like it, and so on."""

    def daydream(self, x_BCHW: Tensor, num: int, /) -> list[Tensor]:
        """So many batches [B, C, H, W], 0 to 1, each drawn given the one before; the first given x."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """A model that chooses among codes or units: where two are as good but for rounding, another machine may differ."""

    def margin(self, x: Tensor, /) -> Tensor:
        """How clear each row's least clear choice is, [B], 0 to 1; 0: rounding decides."""
        ...


@runtime_checkable
class Taught(Protocol):
    """A model that learns targets which are computed once, before its training begins."""

    def check_teacher(self) -> None:
        """Raises TeacherError if there will be no targets of such rows."""
        ...

    def targets(self, values: Any, folder: Path, /) -> Tensor:
        """The target of each row, [N, ...]: a step gets those of its rows behind them.

        Args:
            values: rows, uint8 [N, H, W, C].
            folder: of the run; what is computed may be kept there until the training is done.
        """
        ...


@runtime_checkable
class Surveyor(Protocol):
    """A model that looks at all training rows once, before its training begins."""

    def survey(self, values: Any, /) -> None:
        """Keeps in a buffer what it needs of them; the same of the same rows.

        Args:
            values: rows, uint8 [N, H, W, C], which may be decoded as they are asked for.

        Raises:
            DataError: it cannot learn from these.
        """
        ...


@runtime_checkable
class Regrouped(Protocol):
    """A model that says before each epoch in what order rows are taken, and what each is to be told as."""

    def features(self, x_BHWC: Tensor, /) -> Tensor:
        """What it decides by, of each row, [B, D]; in eval mode, without a gradient."""
        ...

    def regroup(self, features_ND: Tensor, epoch: int, /) -> tuple[Tensor, Tensor]:
        """The order, int64 [N], in which a row may come several times, and the target of each row, [N, ...].

        Args:
            features_ND: of all training rows, the same on all ranks.
            epoch: which, from 0; what is drawn comes from the seed and it alone.
        """
        ...


@runtime_checkable
class Keeping(Protocol):
    """A model that keeps something of every training row: a step gets the places of its rows behind them."""

    def keep(self, num_rows: int, device: torch.device, /) -> None:
        """Makes room for so many rows. What a checkpoint holds of them is loaded afterwards."""
        ...


def as_encoder(module: nn.Module) -> Encoder:
    """The same module, known as an encoder.

    Raises:
        TypeError: it has no method `encode`.
    """
    if not isinstance(module, Encoder):
        raise TypeError(f"module: got {type(module).__name__} without a method encode, expected an encoder")
    return module
