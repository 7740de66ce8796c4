"""Rows to tensors: ONNX Runtime on a GPU or a CPU."""
