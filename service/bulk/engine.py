"""A bundle in this process, for a job (`latentserve.bulk`).

The bundle is loaded and verified, files are decoded and scores decided on by what a server does it with, so the numbers
are a server's. Only the way is another: no queue, no messages, and batches that are always the same.

On a CPU each thread reads, decodes and runs a batch of its own, one core each: nobody waits for the slowest core at
every operator, as the threads of one run do. A server, whose callers wait, gives all cores to one batch. On a GPU the
threads decode, and one batch at a time runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from latentserve import bundle
from latentserve.bulk.engines import BATCH_ROWS, Asked, Model, ahead, answers_of, threads
from latentserve.bulk.listing import Item
from latentserve.bulk.reading import Given, read
from latentserve.bulk.schema import EMBEDDING, Answers
from latentserve.cpus import available_cpus
from latentserve.devices import CPU
from latentserve.errors import InvalidInput, Unsupported
from latentserve.inputs import INPUT
from service.config import Config
from service.engine.engine import Engine
from service.engine.providers import DeviceError
from service.models.decisions import DecisionPolicy
from service.models.decoding import ITEM_ERRORS, decoded
from service.scheduling.queue import Piece, Tensors

AHEAD = 2
"""Batches for each thread that are begun before the first is written."""
CPU_ROWS = 16
"""Rows of one run on a CPU: the tensors of more leave a core's cache, and take memory in each thread."""
SCORES = "scores"


@dataclass(frozen=True)
class Decoded:
    """A batch that was read and decoded.

    Attributes:
        given: every item of it.
        errors: what is wrong with each; None if nothing is.
        rows: of the sound ones, in order.
    """

    given: list[Given]
    errors: list[str | None]
    rows: NDArray[Any]


class Bundle:
    """See `latentserve.bulk.engines.Engine`.

    Args:
        folder: of the bundle, <name>/<version>.
        asked: of each item.
        device: as `latentserve serve --device`; the other settings are a server's, by default or environment.
        cpus: cores that it takes; 0: those of this process.

    Raises:
        BundleError: the bundle is broken.
        Unsupported: scores are asked for, and it has no calibrated detector.
        InvalidInput: the level cannot be, or a variable of the environment.
    """

    def __init__(self, folder: Path, asked: Asked, device: str, cpus: int = 0) -> None:
        self._folder, self._asked = folder.resolve(), asked
        config = _config(self._folder, device)
        threads_of_one = config.intra_op_threads or 1
        self._workers = max(1, (cpus or available_cpus()) // threads_of_one)
        self._device = replace(config.device_config, intra_op_threads=threads_of_one)
        self._limits = config.limits
        self._manifest = manifest = bundle.load(self._folder)
        self._policy = DecisionPolicy(manifest, bundle.load_calibration(self._folder, manifest))
        self._wants = frozenset([EMBEDDING] * asked.embeds + [SCORES] * asked.scores)
        self._options = self._policy.options(asked.alpha, asked.guarantee, "per_row") if asked.scores else None
        self.model = Model(
            name=manifest.name,
            version=manifest.version,
            embedding_space=manifest.embedding_space,
            calibration=manifest.detectors[0].calibration_sha256 if manifest.detectors else "",
            embedding_size=manifest.outputs[EMBEDDING].shape[0],
            alpha=self._options.alpha if self._options else 0.0,
        )

    def answers(self, batches: Iterable[Sequence[Item]]) -> Iterator[Answers]:
        """See `latentserve.bulk.engines.Engine`.

        Raises:
            BundleError: the golden rows come out otherwise.
            Unsupported: the required device is not there.
        """
        engine = self._engine
        is_cpu = engine.execution_provider == CPU
        slot = contextlib.nullcontext() if is_cpu else threading.Lock()
        rows = CPU_ROWS if is_cpu else BATCH_ROWS

        def run(given: NDArray[Any]) -> Tensors:
            with slot:
                pieces = [Piece(given[at : at + rows], self._wants) for at in range(0, len(given), rows)]
                found = [engine.run(INPUT, [piece])[0] for piece in pieces]
            return {name: np.concatenate([one[name] for one in found]) for name in self._wants}

        with threads(self._workers) as pool:
            yield from ahead(pool, lambda batch: self._answered(run, batch), batches, AHEAD * self._workers)

    @cached_property
    def _engine(self) -> Engine:
        """Loaded and verified once, however often there is something to answer."""
        try:
            engine = Engine(self._folder, self._manifest, self._device)
        except DeviceError as error:
            raise Unsupported(str(error)) from error
        engine.check_golden(bundle.load_golden(self._folder, self._manifest))
        if engine.execution_provider != CPU:
            engine.warm_up()
        return engine

    def _decoded(self, batch: Sequence[Item]) -> Decoded:
        limits, expected = self._limits, self._manifest.input
        given = [read(item, limits.max_item_bytes) for item in batch]
        rows = np.empty((len(given), *expected.spec.shape), expected.spec.dtype)
        errors, num = [one.error for one in given], 0
        for number, one in enumerate(given):
            if one.error is None:
                try:
                    rows[num] = decoded(one.data, expected, limits)
                    num += 1
                except ITEM_ERRORS as error:
                    errors[number] = str(error)
        return Decoded([one._replace(data=b"") for one in given], errors, rows[:num])

    def _answered(self, run: Callable[[NDArray[Any]], Tensors], items: Sequence[Item]) -> Answers:
        batch = self._decoded(items)
        num, size = len(batch.given), self.model.embedding_size
        sound = np.array([error is None for error in batch.errors])
        embeddings = np.zeros((num, size), np.float32) if self._asked.embeds else None
        p_values, flagged = (np.ones(num), np.zeros(num, np.bool_)) if self._asked.scores else (None, None)
        if len(batch.rows):
            found = run(batch.rows)
            if embeddings is not None:
                embeddings[sound] = found[EMBEDDING]
            if p_values is not None and flagged is not None and self._options is not None:
                decided = self._policy.decide(found[SCORES], self._options)
                p_values[sound], flagged[sound] = decided.p_values, decided.flagged
        return answers_of(batch.given, batch.errors, embeddings, p_values, flagged)


def _config(folder: Path, device: str) -> Config:
    settings: dict[str, Any] = {"models": folder.parent.parent, "device": device, "max_batch_rows": BATCH_ROWS}
    try:
        return Config(**settings)
    except ValidationError as error:
        (fault, *_) = error.errors()
        if not fault["loc"]:  # of several together; the settings of a server count for a bundle, too
            raise InvalidInput(f"LATENTSERVE_ variables: {fault['msg'].removeprefix('Value error, ')}") from error
        name = f"LATENTSERVE_{'_'.join(map(str, fault['loc'])).upper()}"
        raise InvalidInput.at(name, got=repr(fault["input"]), expected=fault["msg"]) from error
