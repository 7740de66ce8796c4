"""A collection of Qdrant: a server, or its local mode in a folder. Needs qdrant-client (extra `qdrant`).

A point's id follows from its source, for Qdrant takes numbers and UUIDs alone; the source is in its payload.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

from latentserve.bulk.rows import Block
from latentserve.bulk.schema import Job
from latentserve.errors import InvalidInput, Unsupported
from latentserve.neighbours.table import Metric

POINTS = 256
"""Of a request."""
NAMESPACE = uuid.UUID("6b1a2f0e-54c4-5d9e-9b1f-6f1f0c0b7a11")
"""Of the ids of points: drawn once."""
URL = re.compile(r"https?://\S+")
SPACE = "embedding_space"


def point_id(source: str) -> str:
    """The id of a row's point."""
    return str(uuid.uuid5(NAMESPACE, source))


def write(
    where: str, job: Job, columns: list[str], name: str, metric: Metric, key: str | None, blocks: Iterable[Block]
) -> None:
    """Writes the rows.

    Args:
        where: address of a server, or folder of the local mode.
        job: whose rows these are.
        columns: of the payload, all in `others` of the blocks.
        name: of the collection.
        metric: of the collection, if it is new.
        key: the server's API key.
        blocks: the rows.

    Raises:
        Unsupported: qdrant-client is not installed.
        InvalidInput: a collection of that name has other vectors, or Qdrant does not answer.
    """
    try:
        from qdrant_client import QdrantClient, models
        from qdrant_client.http.exceptions import ApiException
    except ModuleNotFoundError as error:
        what = "to: Qdrant needs qdrant-client, which is missing: pip install 'latentserve[qdrant]'"
        raise Unsupported(what) from error
    server: dict[str, Any] = {"url": where, "api_key": key, "check_compatibility": False}
    given = server if URL.fullmatch(where) else {"path": where}
    try:
        client = QdrantClient(**given)
        try:
            _ready(client, models, job, name, metric, f"qdrant:{where}, collection {name}")
            for block in blocks:
                _upsert(client, models, job, columns, name, block)
        finally:
            client.close()
    except (ApiException, RuntimeError) as error:  # RuntimeError: another process holds the local mode's folder
        why = str(error).splitlines()[0]
        raise InvalidInput.at("to", got=f"qdrant:{where}", expected=f"a Qdrant that answers ({why})") from error


def _ready(client: Any, models: Any, job: Job, name: str, metric: Metric, place: str) -> None:
    """Makes the collection, or checks the one that there is."""
    distance = {"cosine": models.Distance.COSINE, "euclidean": models.Distance.EUCLID}[metric]
    if not client.collection_exists(name):
        kind = models.Datatype.FLOAT16 if job.half else models.Datatype.FLOAT32
        vectors = models.VectorParams(size=job.embedding_size, distance=distance, datatype=kind)
        client.create_collection(name, vectors_config=vectors)
        return
    there = client.get_collection(name).config.params.vectors
    got = f"{getattr(there, 'size', 'several')} numbers by {getattr(there, 'distance', 'several')}"
    wanted = f"{job.embedding_size} numbers by {distance}"
    if got != wanted:
        raise InvalidInput.at("to", got=f"{place} of {got}", expected=f"{wanted}, or another --name")
    points, _ = client.scroll(name, limit=1)
    for point in points:
        if (space := (point.payload or {}).get(SPACE)) != job.embedding_space:
            expected = f"{job.embedding_space!r}, that of the job, or another --name"
            raise InvalidInput.at(SPACE, got=f"{space!r} in {place}", expected=expected)


def _upsert(client: Any, models: Any, job: Job, columns: list[str], name: str, block: Block) -> None:
    payloads = [row | {SPACE: job.embedding_space} for row in block.others.select(columns).to_pylist()]
    for first in range(0, len(payloads), POINTS):
        some = payloads[first : first + POINTS]
        ids = [point_id(row["source"]) for row in some]
        vectors = block.embeddings[first : first + POINTS].astype("float32").tolist()
        client.upsert(name, models.Batch(ids=ids, vectors=vectors, payloads=some))
