"""Rows of a job's output: one schema, whoever computes them. Needs pyarrow (extra `bulk`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

EMBEDDING, P_VALUE, FLAGGED = "embedding", "p_value", "flagged"
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Job:
    """What a job is, and what its folder says of itself (`_job.json`): two jobs that differ in it share no folder.

    Attributes:
        schema_version: of the rows.
        model: name.
        version: of the model.
        embedding_space: identity of the embedding space.
        calibration: sha256 of the deciding detector's calibration scores; empty if the model has none.
        columns: which of `embedding`, `p_value` and `flagged` are filled.
        embedding_size: numbers of an embedding.
        half: embeddings are float16.
        alpha: level of `flagged`; 0 if it is not filled.
        guarantee: of `p_value`; empty if it is not filled.
        part_rows: rows of a part.
    """

    schema_version: int
    model: str
    version: int
    embedding_space: str
    calibration: str
    columns: tuple[str, ...]
    embedding_size: int
    half: bool
    alpha: float
    guarantee: str
    part_rows: int


@dataclass(frozen=True)
class Answers:
    """What was found of some items, in their order; values of an item with an error mean nothing.

    Attributes:
        sources: of each item.
        ids: sha256 of its bytes; None if they could not be read.
        errors: what is wrong with it; None if nothing is.
        embeddings: float32 [n, D]; None if they were not asked for.
        p_values: float64 [n], and
        flagged: bool [n]; None if they were not asked for.
    """

    sources: list[str]
    ids: list[str | None]
    errors: list[str | None]
    embeddings: NDArray[np.float32] | None = None
    p_values: NDArray[np.float64] | None = None
    flagged: NDArray[np.bool_] | None = None


def schema(job: Job) -> pa.Schema:
    """Names and types of the columns."""
    number = pa.float16() if job.half else pa.float32()
    return pa.schema(
        [
            *(pa.field(name, pa.string()) for name in ("id", "source", "model")),
            pa.field("version", pa.int64()),
            *(pa.field(name, pa.string()) for name in ("embedding_space", "calibration")),
            pa.field(EMBEDDING, pa.list_(number, job.embedding_size)),
            pa.field(P_VALUE, pa.float64()),
            pa.field(FLAGGED, pa.bool_()),
            pa.field("error", pa.string()),
        ]
    )


def table(job: Job, answers: Sequence[Answers]) -> pa.Table:
    """The rows of some answers."""
    errors = [error for some in answers for error in some.errors]
    embeddings = None
    if EMBEDDING in job.columns:
        embeddings = np.concatenate([_given(some.embeddings) for some in answers])
        if job.half:
            errors = _beyond_half(embeddings, errors)
    failed = np.array([error is not None for error in errors])

    def values(name: str) -> pa.Array:
        kind = schema(job).field(FLAGGED if name == "flagged" else P_VALUE).type
        if FLAGGED not in job.columns:
            return pa.nulls(len(failed), kind)
        return pa.array(np.concatenate([_given(getattr(some, name)) for some in answers]), kind, mask=failed)

    columns: list[Any] = [
        [one for some in answers for one in some.ids],
        [source for some in answers for source in some.sources],
        *([value] * len(failed) for value in (job.model, job.version, job.embedding_space, job.calibration)),
        _lists(job, embeddings, failed),
        values("p_values"),
        values("flagged"),
        errors,
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema(job), strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema(job))


def _lists(job: Job, embeddings_ND: NDArray[np.float32] | None, failed_N: NDArray[np.bool_]) -> pa.Array:
    kind = schema(job).field(EMBEDDING).type
    if embeddings_ND is None:
        return pa.nulls(len(failed_N), kind)
    numbers = np.where(failed_N[:, None], 0, embeddings_ND).astype(np.float16 if job.half else np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), type=kind, mask=pa.array(failed_N))


def _beyond_half(embeddings_ND: NDArray[np.float32], errors: list[str | None]) -> list[str | None]:
    """An embedding that float16 does not hold is an error of its item, no infinity among numbers."""
    largest_N = np.abs(embeddings_ND).max(axis=1)
    told = "embedding: got {:g}, expected at most {:g}, the largest float16 (--half)"
    return [
        told.format(largest, LARGEST_HALF) if error is None and largest > LARGEST_HALF else error
        for largest, error in zip(largest_N, errors, strict=True)
    ]


def _given(array: NDArray[Any] | None) -> NDArray[Any]:
    assert array is not None  # the engine was asked for it
    return array
