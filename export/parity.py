"""Served numbers equal trained numbers: every ONNX output is held against the trained model's.

Of scores people use the p-values. So it is these that must stay, within what they are known to by their calibration
(`latentserve.conformal.scatter`); then a score may be off by more than other tensors may, and if they move it may not,
however small its own error is (docs/adr/0016).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.detectors import Scorer
from export.graphs import DecoderGraph, ExportError, GraphRunner
from latentserve.bundle import Parity, Precision
from latentserve.conformal import Move, worst_move
from latentserve.inputs import INPUT
from training.networks.small import floats_from_rows

RELATIVE_TOLERANCE = 1e-4
"""Of the largest absolute value of a tensor: float32 noise of a deep graph is a tenth of it, a bug far above."""
ROUNDING_ERRORS = 4.0
"""Of the trained model's own, where that is more: a BatchNorm over a channel that hardly varies makes rounding large in
torch and ONNX alike. Its own is what running it in float64 changes."""
LOWER_TOLERANCE: dict[Precision, float] = {"float16": 0.01, "int8": 0.25}
"""Of the largest absolute value of what the encoder gives. One rounding is 1/2048 of a number in 16-bit floats and
1/256 of a tensor's range in 8-bit integers; a network adds up dozens."""
MOVED = 2.0
"""Of how far 16-bit rounding moved the scores here: a GPU rounds each product, which a CPU does not, and its scores are
held against those when a bundle is loaded."""
BATCH_SIZES = (1, 7, 64)


def trained_tensors(model: Any, scorer: Scorer | None, rows: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """What the trained torch model gives for some rows, by tensor name."""
    return _tensors(model, scorer, rows, torch.float32)


def _tensors(
    model: Any, scorer: Scorer | None, rows: NDArray[Any], dtype: torch.dtype
) -> dict[str, NDArray[np.float32]]:
    x_BHWC = torch.from_numpy(rows)
    with torch.no_grad():
        encoding = model.encode(floats_from_rows(x_BHWC).to(dtype))._asdict()
        tensors = {name: tensor for name, tensor in encoding.items() if tensor is not None}
        if "latent" in tensors and hasattr(model, "decode"):
            tensors["reconstruction"] = DecoderGraph(model)(tensors["latent"])
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        if scorer is not None:
            given = {INPUT: x_BHWC, **tensors}
            tensors["scores"] = scorer(*(given[name] for name in scorer.inputs))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def check_parity(
    runner: GraphRunner,
    model: Any,
    scorer: Scorer | None,
    rows: NDArray[Any],
    precision: Precision = "float32",
    calibration: Mapping[str, NDArray[np.float32]] | None = None,
) -> tuple[Parity, ...]:
    """Compares every tensor at several batch sizes.

    Args:
        runner: of the exported graphs.
        model: trained.
        scorer: the detectors; with an encoder of lower precision they are asked about its numbers, not the model's.
        rows: to compare on.
        precision: of the encoder: a lower one is allowed more.
        calibration: sorted scores of each detector; None: scores are judged as other tensors are.

    Returns:
        The largest error of each tensor.

    Raises:
        ExportError: a tensor is further off than its tolerance, or not finite, or a p-value is further off than it is
            known.
    """
    expected = trained_tensors(model, scorer if precision == "float32" else None, rows)
    of_the_model = dict(expected)
    calibration = {name: scores for name, scores in (calibration or {}).items() if not _is_one_value(scores)}
    found, move = _largest_errors(runner, None if precision == "float32" else scorer, rows, expected, calibration)
    parity = []
    for name, array in expected.items():
        relative = LOWER_TOLERANCE.get(precision, RELATIVE_TOLERANCE) if name != "scores" else RELATIVE_TOLERANCE
        tolerance = relative * max(1.0, float(np.abs(array).max()))
        if tolerance < found[name] < float("inf") and precision == "float32":
            exact = _tensors(copy.deepcopy(model).double(), scorer, rows, torch.float64)
            tolerance = max(tolerance, ROUNDING_ERRORS * float(np.abs(exact[name] - array).max()))
        if name == "scores" and scorer is not None and precision == "float16":
            moved = _farthest(scorer.scores({INPUT: rows, **of_the_model}), array)
            tolerance = max(tolerance, MOVED * moved)
        judged = move if name == "scores" and np.isfinite(found[name]) else None
        if judged is not None and not judged.holds:
            raise ExportError(
                f"scores: with the exported graph {judged} of the trained model (a score is {found[name]:.3g} off);"
                " no bundle was written"
            )
        if judged is None and not found[name] <= tolerance < float("inf"):
            raise ExportError(
                f"{name}: the exported graph is {found[name]:.3g} off the trained model,"
                f" expected at most {tolerance:.3g}; no bundle was written"
            )
        # scores that are further off are so where p-values do not mind: so may those of the golden rows be
        tolerance = tolerance if judged is None else max(tolerance, found[name])
        parity.append(Parity(name, found[name], tolerance, len(rows)))
    return tuple(parity)


def _largest_errors(
    runner: GraphRunner,
    asked: Scorer | None,
    rows: NDArray[Any],
    expected: dict[str, NDArray[np.float32]],
    calibration: Mapping[str, NDArray[np.float32]] | None,
) -> tuple[dict[str, float], Move | None]:
    """Of each tensor, over all batch sizes; infinite if one is not finite. And of p-values.

    Args:
        runner: of the exported graphs.
        asked: with an encoder of lower precision, what says which scores to expect of its numbers.
        rows: to compare on.
        expected: of the trained model; gets the expected scores.
        calibration: makes p-values of scores.
    """
    found: dict[str, float] = {}
    moves: list[Move] = []
    for batch_rows in BATCH_SIZES:
        tensors = runner.run(rows, batch_rows)
        if asked is not None:
            expected["scores"] = asked.scores({INPUT: rows, **tensors})
        for name, array in expected.items():
            error = _farthest(tensors[name], array)
            found[name] = max(found.get(name, 0.0), error) if np.isfinite(error) else float("inf")
        if calibration and "scores" in expected:
            moves.append(worst_move(tensors["scores"], expected["scores"], calibration))
    return found, max(moves, key=lambda move: abs(move.got - move.expected) / move.allowed, default=None)


def _is_one_value(scores_N: NDArray[np.float32]) -> bool:
    """Whether calibration scores are equal but for what a score may be off: their p-values are those of ties."""
    return float(np.ptp(scores_N)) <= RELATIVE_TOLERANCE * max(1.0, float(np.abs(scores_N).max()))


def _farthest(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """NaN if both are infinite somewhere."""
    with np.errstate(invalid="ignore"):
        return float(np.abs(one - other).max())
