"""Self-supervised encoders: one file per method in `methods`, everything they share beside it.

Knows neither ONNX nor gRPC. Run it as `python -m training METHOD --data SPEC`.
"""
