"""The state of a client's call in flight, the same for both clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from latentserve.calls import Call, Priority, with_priority
from latentserve.errors import DeadlineExceeded, InvalidInput, LatentserveError
from latentserve.items import Part

R = TypeVar("R")

REQUESTS_IN_FLIGHT = 4
"""Requests of one call in flight at once: the server batches one while the next travels."""


class Progress(Generic[R]):
    """The requests in flight and the responses so far. Responses come in the order of the requests.

    Args:
        call: is made once.
        priority: of its requests.
        timeout_seconds: of each request.
    """

    def __init__(self, call: Call[R], priority: Priority, timeout_seconds: float) -> None:
        self._call = call
        self._priority = priority
        self._timeout_seconds = timeout_seconds
        self._out: deque[Part] = deque()
        self._responses: list[Any] = []
        self._num_done = 0
        self._invalid: LatentserveError | None = None

    def requests(self) -> Iterator[Any]:
        """Makes requests on demand. An item that cannot be sent ends them, and `result` raises its error."""
        try:
            for part in self._call.cut.parts:
                request = with_priority(self._call.ask(part), self._priority)
                self._out.append(part)
                yield request
        except LatentserveError as error:
            self._invalid = error

    async def requests_async(self) -> AsyncIterator[Any]:
        """As `requests`. Those that mean to read files are made in a thread, so that an event loop need not wait."""
        requests, reads = self.requests(), self._call.cut.reads
        while (request := await asyncio.to_thread(next, requests, None) if reads else next(requests, None)) is not None:
            yield request

    def answered(self, response: Any) -> None:
        """Takes the response of the oldest request in flight."""
        self._responses.append(response)
        self._num_done += self._out.popleft().num

    def failed(self, error: LatentserveError) -> LatentserveError:
        """The error of the oldest request in flight, in terms of the caller's items, with the results before it."""
        if isinstance(error, InvalidInput):
            text = self._out[0].told(str(error))
        elif isinstance(error, DeadlineExceeded):
            text = f"{error} (a request has {self._timeout_seconds:g} s){self._so_far()}"
        else:
            text = f"{error}{self._so_far()}"
        error.args = text, *error.args[1:]
        return self._with_done(error)

    def result(self) -> R:
        """The result, once every request has its response.

        Raises:
            LatentserveError: an item could not be sent, or the responses do not fit each other.
        """
        if self._invalid is not None:
            raise self._with_done(self._invalid)
        return self._call.join(self._responses)

    def _so_far(self) -> str:
        if self._call.cut.total == 0:  # a call without rows
            return ""
        of_all = "" if self._call.cut.total is None else f" of {self._call.cut.total}"
        return f"; {self._num_done}{of_all} rows were done" + (", see the error's `done`" if self._num_done else "")

    def _with_done(self, error: LatentserveError) -> LatentserveError:
        if self._num_done:
            with contextlib.suppress(LatentserveError):  # the model changed in the middle: they do not fit each other
                error.done = self._call.join(self._responses)
        return error
