"""Figures about representations and scores: pure functions over arrays, fed from torch, ONNX or a server."""
