"""The encoder in 8-bit integers: static quantisation, for CPUs with integer products.

Weights and activations are quantised where they are read (QDQ); the ranges of activations are those of some training
rows. Weights keep 7 bits: CPUs without VNNI add pairs of products in 16 bits, which 8 would overflow, so that the same
bundle gave one embedding on one CPU and another on the next. Detectors are fitted and calibrated on the outputs of
the quantised graph, so that p-values stay exact; the distance of its embeddings from the trained model's is measured
and written into the bundle.

Source: Jacob et al., https://arxiv.org/abs/1712.05877; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
(one scale for each output channel of a weight).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from latentserve.inputs import INPUT
from training.data.lazy import parts_of
from training.data.rows import Values

RANGE_ROWS = 512
"""Rows whose activations set the ranges."""
BATCH_ROWS = 32


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: Values) -> None:
        self._batches: Iterator[Values] = parts_of(rows, BATCH_ROWS)

    def get_next(self) -> dict[str, Values] | None:
        """The next batch, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _no_advice() -> Iterator[None]:
    """Keeps quantize_static, which logs to the root, from advising the preparation that was just made."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def quantise(path: Path, train_rows: Values) -> float:
    """Puts the quantised encoder in the place of the float one; returns its size as a share of what it was.

    Args:
        path: of encoder.onnx.
        train_rows: what it is shown to find the ranges, as clients send rows.
    """
    prepared, bytes_before = path.with_suffix(".prepared"), path.stat().st_size
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    some = np.random.default_rng(0).permutation(len(train_rows))[:RANGE_ROWS]
    with _no_advice():
        quantize_static(
            prepared,
            path,
            _Rows(train_rows[np.sort(some)]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
        )
    prepared.unlink()
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    return path.stat().st_size / bytes_before
