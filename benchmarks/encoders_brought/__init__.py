"""Encoders that were trained elsewhere, taken over and served: weights, and what comes out."""
