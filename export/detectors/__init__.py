"""Out-of-distribution detectors: fitted on training rows, exported together as scorer.onnx."""

from export.detectors.scorer import DETECTORS, Scorer, ScorerGraph

__all__ = ["DETECTORS", "Scorer", "ScorerGraph"]
