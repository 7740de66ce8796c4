"""What every protocol asks of the models: to find one, to run rows through it and to decide on their scores.

Servicers turn their messages into these two calls and the outcome into messages again; they hold nothing else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from latentserve.errors import Unsupported
from latentserve.inputs import ANOMALY_MAP, INPUT
from service.api.access.callers import ANYBODY, Caller
from service.models.decisions import Decisions, ScoreOptions
from service.models.decoding import Arriving
from service.models.maps import MapOptions, Maps
from service.models.model import ServedModel
from service.models.repository import Repository
from service.observing.metrics import Metrics
from service.scheduling.queue import Tensors

EMBEDDING, RECONSTRUCTION, SCORES = "embedding", "reconstruction", "scores"
LOOP_PLACES = 2**14
"""Of maps up to this the event loop finds p-values and regions itself, in 1 ms; larger ones in a thread."""
MOST_NAMED = 5
"""Other models that an error names."""


@dataclass
class Context:
    """What a transport knows of a call.

    Attributes:
        method: name of the call.
        deadline: the client's, on `time.monotonic`.
        model: name of the model that answers, once it is known; for metrics.
        size_bytes: of the request.
        caller: whose call it is.
    """

    method: str
    deadline: float = math.inf
    model: str = ""
    size_bytes: int = 0
    caller: Caller = ANYBODY


class Outcome(NamedTuple):
    """What a call gets: the tensors it asked for, and what its scores and its maps mean, if it asked for that."""

    tensors: Tensors
    decisions: Decisions | None
    maps: Maps | None = None


class Inference:
    """The models, for servicers.

    Args:
        repository: where they are.
        metrics: record what is done.
    """

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics

    def find(self, name: str, version: int, context: Context) -> ServedModel:
        """See `Repository.find`. From now on the call is this model's. Raises PermissionDenied if it may not be."""
        if name:
            context.caller.check_model(name)
        model = self._repository.find(name, version, context.caller.sees)
        context.model = model.manifest.name
        return model

    async def run(
        self,
        model: ServedModel,
        arrive: Callable[[], Arriving],
        wants: set[str],
        priority: int,
        context: Context,
        queue: str = INPUT,
        options: ScoreOptions | None = None,
        map_options: MapOptions | None = None,
    ) -> Outcome:
        """Runs rows that are still in their message, and decides on their scores. The one way through a model.

        Args:
            model: see `find`.
            arrive: says what the rows of the message will take. They are read once the queue has room for them; then
                the message is dropped, so that whoever calls should not hold it either.
            wants: names of tensors.
            priority: of the call.
            context: of the call.
            queue: where the rows wait.
            options: what to decide on; None: nothing.
            map_options: the same of maps.

        Raises:
            Unsupported: the model does not output a tensor.
            InvalidInput: the rows are not what the model takes.
        """
        self.require(model, wants, context)
        arriving = arrive()
        waiting = model.queues[queue]
        with waiting.reserve(arriving.num_rows, arriving.size_bytes, context.deadline, priority) as reservation:
            started = time.monotonic()
            rows = await arriving.read(context.deadline, priority)
            del arrive, arriving  # the message goes with them: its bytes need not wait beside the rows
            if queue == INPUT:
                self._metrics.decode_seconds.labels(context.model).observe(time.monotonic() - started)
            self._metrics.request_rows.labels(context.method, context.model).observe(len(rows))
            tensors = await waiting.submit(rows, computed(model, wants), context.deadline, priority, reservation)
        if model.monitor:
            model.monitor.observe(tensors.get(SCORES), tensors.get(EMBEDDING))
        decisions = None if options is None else self._decide(model, tensors, options)
        maps = None if map_options is None else await self._decide_maps(model, tensors, map_options)
        return Outcome(tensors, decisions, maps)

    def require(self, model: ServedModel, wants: Iterable[str], context: Context) -> None:
        """Checks that a model outputs these tensors, before any row is read.

        Raises:
            Unsupported: it does not; the message names models that output a map where one was asked for.
        """
        missing = sorted(set(wants) - model.manifest.outputs.keys())
        if not missing:
            return
        told = (
            f"model {model.manifest.name} version {model.manifest.version} has no output {missing[0]};"
            f" it outputs {', '.join(sorted(model.manifest.outputs))}"
        )
        if ANOMALY_MAP in missing:
            served = (one.manifest for one in self._repository.served())
            able = sorted({one.name for one in served if ANOMALY_MAP in one.outputs and context.caller.sees(one.name)})
            more = f" and {len(able) - MOST_NAMED} more" if len(able) > MOST_NAMED else ""
            told += f"; models with a map: {', '.join(able[:MOST_NAMED]) or 'none'}{more}"
        raise Unsupported(told)

    async def _decide_maps(self, model: ServedModel, tensors: Tensors, options: MapOptions) -> Maps:
        assert model.map_policy is not None  # the manifest has a map and its detector, or neither
        values = tensors[ANOMALY_MAP]
        if values.size <= LOOP_PLACES:
            maps = model.map_policy.decide(values, options)
        else:
            maps = await asyncio.to_thread(model.map_policy.decide, values, options)
        manifest = model.manifest
        self._metrics.mapped(manifest.name, str(manifest.version), maps.flagged.tolist())
        return maps

    def _decide(self, model: ServedModel, tensors: Tensors, options: ScoreOptions) -> Decisions:
        decisions = model.policy.decide(tensors[SCORES], options)
        flagged, manifest = decisions.flagged, model.manifest
        self._metrics.decided(
            manifest.name,
            str(manifest.version),
            int(flagged.sum()),
            decisions.num_not_finite,
            decisions.marginal_p_values.tolist(),
        )
        return decisions


def computed(model: ServedModel, wants: set[str]) -> frozenset[str]:
    """The wanted tensors, and the embeddings beside scores if the monitor watches them."""
    if model.monitor and model.monitor.drift and SCORES in wants:
        return frozenset(wants | {EMBEDDING})  # the encoder runs anyway, and on a CPU its rows are shown, not copied
    return frozenset(wants)
