"""Out-of-distribution detectors: fitted on training rows, exported together as scorer.onnx."""

from export.detectors.scorer import DETECTORS, Scorer

__all__ = ["DETECTORS", "Scorer"]
