"""What every protocol asks of the models: find one, run rows through it, judge what it gave.

Servicers turn their messages into these calls and the results into messages again; they hold nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from latentserve.errors import Unsupported
from latentserve.inputs import INPUT
from service.api.access.callers import ANYBODY, Caller
from service.models.decisions import Question, Verdicts
from service.models.decoding import Arriving
from service.models.repository import Repository, ServedModel
from service.observing.metrics import Metrics
from service.scheduling.queue import Tensors

EMBEDDING, RECONSTRUCTION, SCORES = "embedding", "reconstruction", "scores"


@dataclass
class Context:
    """What a transport knows of a call.

    Attributes:
        method: name of the call.
        deadline: the caller's, on `time.monotonic`.
        model: name of the model that answers, once it is known; for metrics.
        size_bytes: of the request.
        caller: whose call it is.
    """

    method: str
    deadline: float = math.inf
    model: str = ""
    size_bytes: int = 0
    caller: Caller = ANYBODY


class Need(NamedTuple):
    """What rows will take in one of a model's queues, as far as it is known before they are read."""

    num_rows: int = 1
    size_bytes: int = 0
    lane: str = INPUT


A_ROW = Need()


class Inference:
    """Models at work, for servicers.

    Args:
        repository: where they are.
        metrics: hear of what is done.
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

    def ask(
        self,
        model: ServedModel,
        arrive: Callable[[], Arriving],
        wants: set[str],
        priority: int,
        context: Context,
        lane: str = INPUT,
    ) -> Coroutine[Any, Any, Tensors]:
        """The wanted tensors for rows that are still in their message, to be awaited.

        The message is let go as soon as its rows are read: whoever calls should hold it no longer either.

        Raises:
            Unsupported: the model cannot give a tensor.
            InvalidInput: what is known of the rows is wrong.
        """
        require(model, wants)
        arriving = arrive()
        read = partial(arriving.read, context.deadline, priority)
        return self.run(model, read, wants, priority, context, Need(arriving.num_rows, arriving.size_bytes, lane))

    async def run(
        self,
        model: ServedModel,
        read: Callable[[], Awaitable[NDArray[Any]]],
        wants: set[str],
        priority: int,
        context: Context,
        need: Need = A_ROW,
    ) -> Tensors:
        """The wanted tensors for rows, which are not read if the queue has no room for them."""
        queue = model.lanes[need.lane]
        with queue.reserve(need.num_rows, need.size_bytes, context.deadline, priority) as place:
            started = time.monotonic()
            rows = await read()
            del read  # the message goes with it: its bytes need not wait beside the rows
            if need.lane == INPUT:
                self._metrics.decode_seconds.labels(context.model).observe(time.monotonic() - started)
            self._metrics.request_rows.labels(context.method, context.model).observe(len(rows))
            monitor = model.monitor
            if monitor and monitor.drift and SCORES in wants:
                wants = wants | {EMBEDDING}  # the encoder runs anyway, and on a CPU its rows are shown, not copied
            tensors = await queue.submit(rows, frozenset(wants), context.deadline, priority, place)
        if monitor:
            monitor.observe(tensors.get(SCORES), tensors.get(EMBEDDING))
        return tensors

    def judge(self, model: ServedModel, tensors: Tensors, question: Question) -> Verdicts:
        """What the scores among the tensors mean."""
        verdicts = model.judge.judge(tensors[SCORES], question)
        self._metrics.judged(model.manifest.name, str(model.manifest.version), verdicts)
        return verdicts


def require(model: ServedModel, wants: Iterable[str]) -> None:
    """A model that cannot give a tensor says so before any row is read.

    Raises:
        Unsupported: it cannot.
    """
    missing = sorted(set(wants) - model.manifest.outputs.keys())
    if missing:
        raise Unsupported(
            f"model {model.manifest.name} version {model.manifest.version} gives no {missing[0]};"
            f" it gives {', '.join(sorted(model.manifest.outputs))}"
        )
