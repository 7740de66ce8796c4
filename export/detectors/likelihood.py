"""The likelihood of a row under a density that was trained (`pixelcnn`), as a score: as it is, and three times mended.

    likelihood              -log p(x)
    typicality              | -log p(x) - mean over training rows |                                               [1]
    complexity_corrected    -log p(x) - (a + b L(x)),   L: how long x is by a general code (`complexity`)         [2]
    likelihood_ratio        -log p(x) + log p_0(x),     p_0: the same network, trained on noisy rows              [3]

A density that was trained on photographs finds images likely that are smoother than these: an even grey is easier to
predict than anything [4]. That is what the first one fails at, and it stands here because everybody asks for it. A
typical set has two sides: what is far too likely is out of it, too. What is easy for any code says nothing of the
training rows, nor does what is easy for a model of the background alone, so either is taken away.

Sources: [1] Nalisnick et al., https://arxiv.org/abs/1906.02994, of one row at a time; [2] Serra et al.,
https://arxiv.org/abs/1909.11480; [3] Ren et al., https://arxiv.org/abs/1906.02845; [4] Nalisnick et al.,
https://arxiv.org/abs/1810.09136.

What is ours: in [2] b is 1, as model and code are for the same numbers. A model of binarised pixels is not, so a and b
are those of a straight line through the training rows.

Shape legend: B rows, N training rows.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from export.detectors.complexity import code_length
from export.detectors.detector import SMALLEST_DEVIATION, Arrays, batches_of
from latentserve.inputs import INPUT

NLL, BACKGROUND = "nll", "background_nll"


class Likelihood(nn.Module):
    """-log p(x)."""

    name: ClassVar[str] = "likelihood"
    method: ClassVar[str] = "-log p(x), nats"
    inputs: ClassVar[tuple[str, ...]] = (NLL,)

    @classmethod
    def fit(cls, train: Arrays) -> Self:  # noqa: ARG003 (training did that)
        """Nothing is fitted."""
        return cls()

    def forward(self, nll_B1: Tensor) -> Tensor:
        """Scores [B]."""
        return nll_B1[:, 0]


class Typicality(nn.Module):
    """How far -log p(x) is from that of training rows, on either side."""

    name: ClassVar[str] = "typicality"
    method: ClassVar[str] = "distance of -log p(x) to its mean over the training rows, nats"
    inputs: ClassVar[tuple[str, ...]] = (NLL,)
    mean: Tensor

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """The mean of the training rows."""
        return cls(float(train[NLL].mean(dtype=np.float64)))

    def forward(self, nll_B1: Tensor) -> Tensor:
        """Scores [B]."""
        return (nll_B1[:, 0] - self.mean).abs()


class LikelihoodRatio(nn.Module):
    """How much less likely a row is than under the model of the background."""

    name: ClassVar[str] = "likelihood_ratio"
    method: ClassVar[str] = "-log p(x) less that of the same network, trained on noisy rows, nats"
    inputs: ClassVar[tuple[str, ...]] = (NLL, BACKGROUND)

    @classmethod
    def fit(cls, train: Arrays) -> Self:  # noqa: ARG003 (training did that)
        """Nothing is fitted."""
        return cls()

    def forward(self, nll_B1: Tensor, background_B1: Tensor) -> Tensor:
        """Scores [B]."""
        return (nll_B1 - background_B1)[:, 0]


class ComplexityCorrected(nn.Module):
    """What of -log p(x) is not explained by how complex the image is."""

    name: ClassVar[str] = "complexity_corrected"
    method: ClassVar[str] = "-log p(x) less what training rows of the same length under a general code have, nats"
    inputs: ClassVar[tuple[str, ...]] = (INPUT, NLL)
    line: Tensor

    def __init__(self, offset: float, slope: float) -> None:
        super().__init__()
        self.register_buffer("line", torch.tensor([offset, slope]))

    @classmethod
    def fit(cls, train: Arrays) -> Self:
        """The straight line by least squares; a flat one where all rows are equally long."""
        nll_N = train[NLL][:, 0].astype(np.float64)
        length_N = np.concatenate([code_length(rows).numpy() for (rows,) in batches_of(train, (INPUT,))])
        length_N = length_N.astype(np.float64)
        smallest = SMALLEST_DEVIATION * max(1.0, float(np.abs(length_N).max()))
        variance = max(float(length_N.var()), smallest**2)
        slope = float(((length_N - length_N.mean()) * nll_N).mean()) / variance
        return cls(float(nll_N.mean()) - slope * float(length_N.mean()), slope)

    def forward(self, rows_BHWC: Tensor, nll_B1: Tensor) -> Tensor:
        """Scores [B]."""
        return nll_B1[:, 0] - (self.line[0] + self.line[1] * code_length(rows_BHWC))
