"""Which detectors a user asks for: errors by name, before rows are embedded."""

from __future__ import annotations

import numpy as np

from export.calibration import Promise
from export.detectors import DETECTORS
from export.detectors.fusion import FUSED
from export.detectors.scorer import DEAR, possible
from export.draft import Draft
from export.graphs import EXAMPLE_ROWS, ExportError
from latentserve.inputs import INPUT

ALL = "all"
SINGLE = tuple(name for name in DETECTORS if name not in FUSED)


def detectors_of(promise: Promise) -> tuple[str, ...]:
    """Names that `Scorer.fit` is to fit; empty: all but those that add nothing."""
    if set(promise.detectors) == {ALL} or (promise.deciding in DEAR and not promise.detectors):
        return SINGLE
    return promise.detectors


def check_detectors(promise: Promise) -> None:
    """Raises ExportError if a detector that is asked for does not exist, or the one that decides is not among them."""
    single, chosen = SINGLE, set(promise.detectors) - {ALL}
    if chosen and ALL in promise.detectors:
        raise ExportError(f"detectors: got {' '.join(promise.detectors)}, expected {ALL} alone, or names without it")
    if unknown := [name for name in promise.detectors if name in chosen and name not in single]:
        raise ExportError(f"detectors: got {unknown[0]!r}, expected some of {', '.join(single)}")
    if promise.deciding is None:
        return
    if promise.deciding not in DETECTORS:
        raise ExportError(f"deciding: got {promise.deciding!r}, expected one of {', '.join(DETECTORS)}")
    there = not chosen or promise.deciding in chosen or (promise.deciding in FUSED and len(chosen) > 1)
    if not there:
        raise ExportError(
            f"deciding: got {promise.deciding!r}, expected one of --detectors, which are {', '.join(promise.detectors)}"
        )


def check_possible(draft: Draft) -> None:
    """Raises ExportError if the model lacks what a detector that is asked for looks at; two rows' tensors tell."""
    model, wanted = draft.training.model, draft.choices.promise.detectors
    if not wanted or set(wanted) == {ALL}:
        return
    rows = np.asarray(draft.training.data.test.values[:EXAMPLE_ROWS])
    there = possible(model, {INPUT: rows, **draft.runner.with_patches().run(rows)})
    if missing := [name for name in wanted if name not in there]:
        raise ExportError(
            f"detectors: got {missing[0]}, which looks at what this model does not have, expected some of"
            f" {', '.join(there)}; no bundle was written"
        )
