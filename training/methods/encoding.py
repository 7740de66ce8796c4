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
        nll: float [B, 1], -log p(x) in nats, or None if the model is no density.
        background_nll: float [B, 1], the same by a model of noisy rows, or None if there is none beside it.
    """

    embedding: Tensor
    latent: Tensor | None = None
    latent_scale: Tensor | None = None
    patches: Tensor | None = None
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
