"""Out-of-distribution detectors: fitted on training rows, exported together as scorer.onnx."""

from export.detectors.scorer import DETECTORS, Scorer
from export.detectors.scorer_graph import ScorerGraph

__all__ = ["DETECTORS", "Scorer", "ScorerGraph"]
