"""Neighbours as lines for people; for programs CSV or JSON lines, as other commands write them."""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple, Self

from latentserve.cli.sinks import Record

Metric = Literal["cosine", "euclidean"]
COLUMNS = ("item", "query", "rank", "distance", "id")


class Neighbour(NamedTuple):
    """A row near a query: its distance, and what the job calls it."""

    distance: float
    source: str
    id: str


class Table:
    """See `latentserve.cli.sinks.Sink`: the neighbours of a query below its name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()

    def write(self, record: Record, row: object) -> None:
        """See `Sink`."""
        if record["rank"] == 1:
            sys.stdout.write(f"{record['query']}\n")
        sys.stdout.write(f"{record['rank']:>4}  {record['distance']:<10.4g}  {record['item']}\n")


def record_of(query: str, rank: int, one: Neighbour) -> Record:
    """One line."""
    return {"item": one.source, "query": query, "rank": rank, "distance": one.distance, "id": one.id}
