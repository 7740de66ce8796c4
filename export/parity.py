"""Served numbers equal trained numbers: every ONNX output is held against the trained model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.detectors import Scorer
from export.graphs import DecoderGraph, ExportError, GraphRunner
from latentserve.bundle import Parity
from latentserve.inputs import INPUT
from training.networks import floats_from_rows

RELATIVE_TOLERANCE = 1e-4
"""Of the largest absolute value of a tensor: float32 noise of a deep graph is a tenth of it, a bug far above."""
BATCH_SIZES = (1, 7, 64)


def trained_tensors(model: Any, scorer: Scorer | None, rows: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """What the trained torch model gives for some rows, by tensor name."""
    x_BHWC = torch.from_numpy(rows)
    with torch.no_grad():
        encoding = model.encode(floats_from_rows(x_BHWC))._asdict()
        tensors = {name: tensor for name, tensor in encoding.items() if tensor is not None}
        if "latent" in tensors and hasattr(model, "decode"):
            tensors["reconstruction"] = DecoderGraph(model)(tensors["latent"])
        if scorer is not None:
            given = {INPUT: x_BHWC, **tensors}
            tensors["scores"] = scorer(*(given[name] for name in scorer.inputs))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def check_parity(runner: GraphRunner, model: Any, scorer: Scorer | None, rows: NDArray[Any]) -> tuple[Parity, ...]:
    """Compares every tensor at several batch sizes.

    Returns:
        The largest error of each tensor.

    Raises:
        ExportError: a tensor is further off than its tolerance, or not finite.
    """
    expected = trained_tensors(model, scorer, rows)
    found = dict.fromkeys(expected, 0.0)
    for batch_rows in BATCH_SIZES:
        tensors = runner.run(rows, batch_rows)
        for name, array in expected.items():
            error = float(np.abs(tensors[name] - array).max())
            found[name] = max(found[name], error) if np.isfinite(error) else float("inf")
    parity = []
    for name, array in expected.items():
        tolerance = RELATIVE_TOLERANCE * max(1.0, float(np.abs(array).max()))
        if not found[name] <= tolerance:
            raise ExportError(
                f"{name}: the exported graph is {found[name]:.3g} off the trained model,"
                f" expected at most {tolerance:.3g}; no bundle was written"
            )
        parity.append(Parity(name, found[name], tolerance, len(rows)))
    return tuple(parity)
