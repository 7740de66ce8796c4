"""What is searched for: files that the job's own model embeds, or rows of the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentserve.bulk.engines import BATCH_ROWS, Engine
from latentserve.bulk.listing import Item
from latentserve.bulk.rows import Place, Written, blocks, place_of, taken
from latentserve.errors import InvalidInput


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        name: of its file, or the source of its row.
        vector: its embedding, [D].
        place: of its row; None: it is a file.
        id: of the row's bytes; None of a file, whose bytes are as they are now.
    """

    name: str
    vector: NDArray[Any]
    place: Place | None = None
    id: str | None = None


def check_files(files: Sequence[str]) -> None:
    """Raises InvalidInput if one of them cannot be read, before a model is loaded."""
    for file in files:
        try:
            with Path(file).open("rb") as opened:
                opened.read(1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput.at("query", got=repr(file), expected=f"a file that can be read ({why})") from error


def of_files(files: Sequence[str], engine: Engine, of: Written) -> list[Query]:
    """Files, embedded.

    Raises:
        InvalidInput: the engine embeds into another space than the job's, or cannot take a file.
    """
    got, expected = engine.model.embedding_space, of.job.embedding_space
    if got != expected:
        model = f"{engine.model.name} version {engine.model.version}"
        what = f"{expected!r}, that of {of.path}: distances mean nothing between two spaces"
        raise InvalidInput.at("embedding_space", got=f"{got!r} of {model}", expected=what)
    items = [Item(file) for file in files]
    found: list[Query] = []
    for answers in engine.answers(items[at : at + BATCH_ROWS] for at in range(0, len(items), BATCH_ROWS)):
        assert answers.embeddings is not None  # they were asked for
        for error, vector in zip(answers.errors, answers.embeddings, strict=True):
            file = files[len(found)]
            if error is not None:
                raise InvalidInput(f"query: {file}: {error}")
            found.append(Query(file, _checked(vector, file)))
    return found


def of_rows(names: Sequence[str], of: Written) -> list[Query]:
    """Rows of the job, by id or source.

    Raises:
        InvalidInput: there is no such row, or it has no embedding.
    """
    return [_of_row(name, of) for name in names]


def check_directed(queries: Sequence[Query]) -> None:
    """Raises InvalidInput if one of them is all zeros, from which every direction is as far."""
    for query in queries:
        if not query.vector.any():
            got = f"cosine for {query.name}, whose embedding is all zeros"
            raise InvalidInput.at("metric", got=got, expected="euclidean, or another query")


def _of_row(name: str, of: Written) -> Query:
    place = place_of(of, name)
    if place is None:
        raise InvalidInput.at("query-id", got=repr(name), expected=f"the id or the source of a row of {of.path}")
    (row,) = taken(of, [place], ["id", "source", "error"])
    for block in blocks(of, place.part):
        at = np.flatnonzero(block.rows == place.row)
        if len(at):
            return Query(row["source"], block.embeddings[at[0]], place, row["id"])
    why = f" ({row['error']})" if row["error"] else ""
    raise InvalidInput.at("query-id", got=f"{name!r}, a row without an embedding{why}", expected="one that has one")


def _checked(vector: NDArray[Any], file: str) -> NDArray[Any]:
    if not np.isfinite(vector).all():
        raise InvalidInput.at("query", got=f"{file}, whose embedding is not finite", expected="finite numbers")
    return vector
