"""The calls of the Open Inference Protocol."""
