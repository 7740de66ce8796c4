"""Served numbers equal trained numbers: every ONNX output is compared with the trained model's.

Of scores people use the p-values. So it is these that must stay, within what they are known to by their calibration
(`latentserve.conformal.scatter`); then a score may be off by more than other tensors may, and if they move it may not,
however small its own error is (docs/adr/0016).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from export.detectors import Scorer
from export.graphs import DecoderGraph, ExportError, GraphRunner, Tensors, joined
from latentserve.bundle import Parity, Precision
from latentserve.conformal import Move, worst_move
from latentserve.inputs import ANOMALY_MAP, INPUT
from training.data.lazy import batch_rows, parts_of
from training.data.rows import Values
from training.methods.encoding import Choosing, Decoder, Encoder
from training.preprocessing import floats_from_rows

RELATIVE_TOLERANCE = 1e-4
"""A share of a tensor's largest absolute value: float32 noise of a deep graph is a tenth of it, a bug far above."""
ROUNDING_ERRORS = 4.0
"""A multiple of the trained model's own rounding, where that is more: a BatchNorm over a channel that hardly varies
makes rounding large in torch and ONNX alike. The model's own is what running it in float64 changes."""
LOWER_TOLERANCE: dict[Precision, float] = {"float16": 0.01, "int8": 0.25}
"""A share of the largest absolute value of an encoder's output. One rounding is 1/2048 of a number in 16-bit floats
and 1/256 of a tensor's range in 8-bit integers; a network adds up dozens."""
MOVED = 2.0
"""A multiple of what 16-bit rounding moved the scores by here: a GPU rounds each product, which a CPU does not, and its
scores are compared with those when a bundle is loaded."""
CLEAR = 1e-4
"""A choice of the model's that is less clear than that, between two codes say, may be another after rounding."""
FEWEST_CLEAR = 8
"""Rows. Where fewer are clear all are compared, and a code that is another one is an error."""
BATCH_SIZES = (1, 7, 64)
OF_SCORER = ("scores", ANOMALY_MAP)


def trained_tensors(model: Encoder, scorer: Scorer | None, rows: Values) -> Tensors:
    """What the trained torch model returns for some rows, by tensor name."""
    return _tensors(model, scorer, rows, torch.float32)


def _tensors(model: Encoder, scorer: Scorer | None, rows: Values, dtype: torch.dtype) -> Tensors:
    return joined(_tensors_of_batch(model, scorer, part, dtype) for part in parts_of(rows, batch_rows(rows)))


def _tensors_of_batch(model: Encoder, scorer: Scorer | None, rows: Values, dtype: torch.dtype) -> Tensors:
    x_BHWC = torch.from_numpy(rows)
    with torch.no_grad():
        encoding = model.encode(floats_from_rows(x_BHWC).to(dtype))._asdict()
        tensors = {name: tensor for name, tensor in encoding.items() if tensor is not None}
        if "latent" in tensors and isinstance(model, Decoder):
            tensors["reconstruction"] = DecoderGraph(model)(tensors["latent"])
        tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        if scorer is not None:
            given = {INPUT: x_BHWC, **tensors}
            scored = scorer.with_map(*(given[name] for name in scorer.inputs))
            tensors.update(zip(scorer.outputs, scored, strict=True))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def clear_rows(model: Encoder, rows: Values) -> Values:
    """Rows of which the model chooses nothing so narrowly that rounding decides it; of most models all."""
    rows = np.asarray(rows)
    margins_N = _margins(model, rows)
    clear_N = margins_N > CLEAR
    return rows[clear_N] if clear_N.sum() >= FEWEST_CLEAR else rows


def clearest_rows(model: Encoder, rows: Values, num_rows: int) -> Values:
    """The rows of the clearest choices, in their order, as other machines round otherwise; of most models the first."""
    rows = np.asarray(rows)
    return rows[np.sort(np.argsort(-_margins(model, rows), kind="stable")[:num_rows])]


def _margins(model: Encoder, rows: Values) -> NDArray[np.float32]:
    if not isinstance(model, Choosing):
        return np.ones(len(rows), np.float32)
    with torch.no_grad():
        margins = [model.margin(floats_from_rows(torch.from_numpy(part))) for part in parts_of(rows, batch_rows(rows))]
    margins_N: NDArray[np.float32] = torch.cat(margins).numpy()
    return margins_N


@dataclass(frozen=True)
class Reference:
    """The trained model that exported graphs are compared with.

    Attributes:
        model: trained.
        scorer: the detectors, if there are any. They were fitted on what the graphs return: with an encoder of lower
            precision their scores are expected of its numbers, not of the model's.
        rows: to compare on.
        precision: of the encoder's graph: a lower one is allowed more.
    """

    model: Encoder
    scorer: Scorer | None
    rows: Values
    precision: Precision

    @cached_property
    def tensors(self) -> Tensors:
        """What the graphs should return; without the scores, where these depend on the graph's own numbers."""
        return trained_tensors(self.model, self.scorer if self.precision == "float32" else None, self.rows)

    def expected_beside(self, got: Tensors) -> Tensors:
        """What the graphs should return, the scores of their own numbers included."""
        if self.scorer is None or self.precision == "float32":
            return self.tensors
        return self.tensors | self.scorer.maps({INPUT: self.rows, **got})

    def tolerance(self, name: str, expected: NDArray[np.float32], error: float) -> float:
        """How far one tensor may be off; `error` is how far it is, for what is costly to find out."""
        lower = LOWER_TOLERANCE.get(self.precision, RELATIVE_TOLERANCE)
        relative = RELATIVE_TOLERANCE if name in OF_SCORER else lower
        tolerance = relative * max(1.0, float(np.abs(expected).max()))
        if tolerance < error < float("inf") and self.precision == "float32":
            exact = _tensors(copy.deepcopy(self.model).double(), self.scorer, self.rows, torch.float64)
            tolerance = max(tolerance, ROUNDING_ERRORS * _farthest(exact[name], expected))
        if name in OF_SCORER and self.scorer is not None and self.precision == "float16":
            moved = _farthest(self.scorer.maps({INPUT: self.rows, **self.tensors})[name], expected)
            tolerance = max(tolerance, MOVED * moved)
        return tolerance


@dataclass(frozen=True)
class Comparison:
    """What was found over all batch sizes.

    Attributes:
        expected: tensors, the scores included.
        errors: the largest of each tensor; infinite if it is not finite.
        move: the p-value that moved furthest of what it may, if there are any.
    """

    expected: Tensors
    errors: dict[str, float]
    move: Move | None


def check_parity(
    runner: GraphRunner,
    model: Encoder,
    scorer: Scorer | None,
    rows: Values,
    precision: Precision = "float32",
    calibration: Mapping[str, NDArray[np.float32]] | None = None,
) -> tuple[Parity, ...]:
    """Compares every tensor at several batch sizes; returns the largest error of each.

    Args:
        runner: of the exported graphs.
        model: see `Reference`, as for the next three.
        scorer: the detectors.
        rows: to compare on.
        precision: of the encoder.
        calibration: sorted scores of each detector; None: scores are compared as other tensors are.

    Raises:
        ExportError: a tensor is further off than its tolerance, or not finite, or a p-value is further off than it is
            known.
    """
    reference = Reference(model, scorer, rows, precision)
    known = {name: scores for name, scores in (calibration or {}).items() if not _is_one_value(scores)}
    found = compared(runner, reference, known)
    return tuple(_parity(name, found, reference) for name in found.expected)


def _parity(name: str, found: Comparison, reference: Reference) -> Parity:
    """Raises ExportError if the tensor, or the p-values of scores, are too far off."""
    error = found.errors[name]
    tolerance = reference.tolerance(name, found.expected[name], error)
    if name == "scores" and found.move is not None and np.isfinite(error):
        if not found.move.holds:
            raise ExportError(
                f"scores: with the exported graph {found.move} of the trained model (a score is {error:.3g} off);"
                " no bundle was written"
            )
        # scores that are further off are so where p-values do not mind: so may those of the golden rows be
        return Parity(name, error, max(tolerance, error), len(reference.rows))
    if not error <= tolerance < float("inf"):
        raise ExportError(
            f"{name}: the exported graph is {error:.3g} off the trained model,"
            f" expected at most {tolerance:.3g}; no bundle was written"
        )
    return Parity(name, error, tolerance, len(reference.rows))


def compared(runner: GraphRunner, reference: Reference, calibration: Mapping[str, NDArray[np.float32]]) -> Comparison:
    """Runs the graphs at several batch sizes.

    Args:
        runner: of the exported graphs.
        reference: what they are compared with.
        calibration: sorted scores that make p-values of scores; empty: scores are compared as other tensors are.
    """
    expected, errors = reference.tensors, dict[str, float]()
    moves: list[Move] = []
    for num_rows in BATCH_SIZES:
        got = runner.run(reference.rows, num_rows)
        expected = reference.expected_beside(got)
        for name, array in expected.items():
            error = _farthest(got[name], array)
            errors[name] = max(errors.get(name, 0.0), error) if np.isfinite(error) else float("inf")
        if calibration and "scores" in expected:
            moves.append(worst_move(got["scores"], expected["scores"], calibration))
    furthest = max(moves, key=lambda move: abs(move.got - move.expected) / move.allowed, default=None)
    return Comparison(expected, errors, furthest)


def _is_one_value(scores_N: NDArray[np.float32]) -> bool:
    """Whether calibration scores are equal but for what a score may be off: their p-values are those of ties."""
    return float(np.ptp(scores_N)) <= RELATIVE_TOLERANCE * max(1.0, float(np.abs(scores_N).max()))


def _farthest(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """NaN if both are infinite somewhere."""
    with np.errstate(invalid="ignore"):
        return float(np.abs(one - other).max())
