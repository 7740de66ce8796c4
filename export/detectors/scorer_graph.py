"""The module whose graph is scorer.onnx."""

from __future__ import annotations

from torch import Tensor, nn

from export.detectors.scorer import Scorer


class ScorerGraph(nn.Module):
    """What scorer.onnx holds: tensors in the order of `inputs` -> scores, and the map if there is one."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `Scorer.with_map`."""
        return self.scorer.with_map(*tensors)
