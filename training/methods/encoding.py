"""What any method's encoder gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Encoding(NamedTuple):
    """One row per input; B rows, D embedding, L latent.

    Attributes:
        embedding: float [B, D], what probes and clients use.
        latent: float [B, L], what `decode` takes (the posterior mean), or None if nothing decodes.
        latent_scale: float [B, L], the posterior's standard deviation, or None if there is none.
    """

    embedding: Tensor
    latent: Tensor | None = None
    latent_scale: Tensor | None = None
