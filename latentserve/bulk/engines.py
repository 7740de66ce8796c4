"""Who answers the items of a job: a server, or a bundle in this process."""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from latentserve.bulk.listing import Item
from latentserve.bulk.reading import Given, read
from latentserve.bulk.schema import EMBEDDING, FLAGGED, Answers
from latentserve.bundle import MANIFEST
from latentserve.calls import Guarantee
from latentserve.cli.asking import each
from latentserve.cli.sources import Source
from latentserve.client import Client
from latentserve.conformal import at_most
from latentserve.errors import DeadlineExceeded, InvalidInput, LatentserveError, Unavailable, Unsupported
from latentserve.v1 import embedding_pb2 as pb

T = TypeVar("T")
R = TypeVar("R")

BATCH_ROWS = 64
"""Items that are answered together, as `max_batch_rows` of a server."""
REQUESTS = 4
"""Batches on their way to a server at once."""
PAUSES = (1.0, 2.0, 5.0)
"""Seconds between attempts at a server that does not answer; the last again and again."""


@dataclass(frozen=True)
class Asked:
    """What of each item.

    Attributes:
        columns: which of `embedding`, `p_value` and `flagged`.
        alpha: level of `flagged`; None: the bundle's.
        guarantee: of `p_value`.
    """

    columns: tuple[str, ...]
    alpha: float | None = None
    guarantee: Guarantee = "marginal"

    @property
    def embeds(self) -> bool:
        """Whether embeddings are wanted."""
        return EMBEDDING in self.columns

    @property
    def scores(self) -> bool:
        """Whether p-values are wanted."""
        return FLAGGED in self.columns


@dataclass(frozen=True)
class Model:
    """The model that answers: see `schema.Job`; `alpha` is the level that counts, 0 where nothing is scored."""

    name: str
    version: int
    embedding_space: str
    calibration: str
    embedding_size: int
    alpha: float


class Engine(Protocol):
    """Answers the items of a job. What costs time begins with `answers`, so that a job may be rejected before.

    Attributes:
        model: that answers.
    """

    model: Model

    def answers(self, batches: Iterable[Sequence[Item]]) -> Iterator[Answers]:
        """Of each batch, in order. Batches are taken ahead of what is answered."""


class Server:
    """A server's model, of the version that it has when the job begins.

    Args:
        client: of the server.
        name: of the model; empty: the only one.
        version: 0: the newest.
        asked: of each item.
        patience_seconds: how long a server that does not answer is come back to.

    Raises:
        Unsupported: scores are asked for, and the model has no calibrated detector.
        InvalidInput: the level cannot be.
    """

    def __init__(self, client: Client, name: str, version: int, asked: Asked, patience_seconds: float) -> None:
        self._client, self._asked, self._patience = client, asked, patience_seconds
        self._over = threading.Event()
        found = client.get_model(name, version)
        model, self._most_bytes = found.model, found.limits.max_bytes_per_item
        if asked.scores and not model.detectors:
            raise Unsupported(f"model {model.name} version {model.version} has no calibrated detector: it cannot score")
        (size,) = (output.shape[0] for output in model.outputs if output.name == EMBEDDING)
        calibration = model.detectors[0].calibration_sha256 if model.detectors else ""
        alpha = _level(model, asked) if asked.scores else 0.0
        self.model = Model(model.name, model.version, model.embedding_space, calibration, size, alpha)

    def answers(self, batches: Iterable[Sequence[Item]]) -> Iterator[Answers]:
        """See `Engine`."""
        with threads(REQUESTS) as pool:
            try:
                yield from ahead(pool, self._answered, batches, REQUESTS)
            finally:
                self._over.set()

    def _answered(self, batch: Sequence[Item]) -> Answers:
        given = [read(item, self._most_bytes) for item in batch]
        errors = [one.error for one in given]
        sound = [number for number, error in enumerate(errors) if error is None]
        num, size = len(given), self.model.embedding_size
        embeddings = np.zeros((num, size), np.float32) if self._asked.embeds else None
        p_values, flagged = (np.ones(num), np.zeros(num, np.bool_)) if self._asked.scores else (None, None)
        sources = [Source(str(number), given[number].data) for number in sound]
        for source, at, found in each(iter(sources), self._patient, BATCH_ROWS):
            number = int(source.name)
            if isinstance(found, LatentserveError):
                errors[number] = str(found)
                continue
            if embeddings is not None:
                embeddings[number] = found[0][at]
            if p_values is not None and flagged is not None:
                p_values[number], flagged[number] = found[1].p_values[at], found[1].flagged[at]
        return answers_of(given, errors, embeddings, p_values, flagged)

    def _patient(self, items: list[bytes]) -> Any:
        """Comes back to a server that is away for a while."""
        until = time.monotonic() + self._patience
        for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
            try:
                return self._call(items)
            except (Unavailable, DeadlineExceeded):
                if time.monotonic() + pause > until or self._over.wait(pause):
                    raise
        raise AssertionError("there is always another pause")

    def _call(self, items: list[bytes]) -> tuple[Any, Any]:
        model, version, asked = self.model.name, self.model.version, self._asked
        if not asked.scores:
            return self._client.embed(items, model, version), None
        alpha = self.model.alpha
        if not asked.embeds:
            return None, self._client.score(items, alpha, model, version, asked.guarantee)
        both = (EMBEDDING, "score")
        found = self._client.analyze(items, both, alpha, model, version, guarantee=asked.guarantee)
        return found.embeddings, found.scores


def _level(model: pb.Model, asked: Asked) -> float:
    """The level of the decision. Raises InvalidInput, as the server would, but before anything is written."""
    detector, level = model.detectors[0], model.default_alpha if asked.alpha is None else asked.alpha
    conditional = asked.guarantee == "conditional"
    smallest = detector.smallest_conditional_p_value if conditional else detector.smallest_p_value
    if not (at_most(smallest, level) and level < 1):
        expected = f"{smallest:.3g} (the smallest {asked.guarantee} p-value of its calibration) or more, and below 1"
        raise InvalidInput.at("alpha", got=f"{level:g}", expected=expected)
    return level


def local(folder: Path, asked: Asked, device: str, cpus: int = 0) -> Engine:
    """A bundle in this process, verified as a server verifies it, on so many cores; 0: on those of this process.

    Raises:
        Unsupported: what a server needs is not installed, or the bundle cannot answer that.
        BundleError: the bundle is broken.
        InvalidInput: the folder is none of a bundle.
    """
    try:
        found = importlib.import_module("service.bulk.engine")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("latentserve"):
            raise
        needs = f"{error.name} is missing: pip install 'latentserve[serve]'"
        raise Unsupported(f"bundle: got {folder}, which needs what a server needs, {needs}") from error
    if not (folder / MANIFEST).exists():
        expected = f"the folder of a bundle, models/NAME/VERSION, with a {MANIFEST} in it"
        raise InvalidInput.at("bundle", got=str(folder), expected=expected)
    made: Engine = found.Bundle(folder, asked, device, cpus)
    return made


def answers_of(given: Sequence[Given], errors: list[str | None], *values: Any) -> Answers:
    """Answers to what was read."""
    return Answers([one.item.source for one in given], [one.id for one in given], errors, *values)


class threads(ThreadPoolExecutor):  # noqa: N801 (it stands in a `with`)
    """Threads whose block is left at once: what had not begun is dropped, nobody waits for what had."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=False, cancel_futures=True)


def ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], given: Iterable[T], num: int) -> Iterator[R]:
    """What `work` makes of each in threads, in order, at most `num` of them begun before they are wanted."""
    begun: deque[Future[R]] = deque()
    for one in given:
        begun.append(pool.submit(work, one))
        if len(begun) > num:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
