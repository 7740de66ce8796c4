"""A stream of scores, from the client's side: items go out as they come, results come back in their order.

At most ITEMS_AHEAD items are ahead of the results that the caller has taken, so the items may have no end. Each item is
cut into requests as `Client.score` would; what is wrong with one is its result, and the stream goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import grpc
import grpc.aio
from numpy.typing import NDArray

from latentserve import calls
from latentserve.calls import Guarantee, Priority, Scores
from latentserve.errors import InternalError, LatentserveError, from_code
from latentserve.items import Cut, cut_one
from latentserve.rpc import Metadata, error_of
from latentserve.v1 import embedding_pb2 as pb

Item = NDArray[Any] | bytes | str | PathLike[str] | Any
"""A file, as path or bytes, or a PIL image; an array or tensor of rows (2 or 4 axes) or of one row (1 or 3):
[n, height, width, channels], [height, width, channels], [n, samples], [samples]."""
Result = Scores | LatentserveError

ITEMS_AHEAD = 32
"""As many requests as the server reads ahead (`service.api.ordered_stream.Bounds`): more would only wait."""


@dataclass(frozen=True)
class Asked:
    """One item on its way.

    Attributes:
        requests: what is sent for it; none if it could not be.
        result: makes the result of their responses.
    """

    requests: list[pb.ScoreRequest]
    result: Callable[[list[pb.ScoreStreamResponse]], Result]


@dataclass(frozen=True)
class Question:
    """What is asked of every item."""

    alpha: float | None
    guarantee: Guarantee
    model: str
    version: int
    priority: Priority

    def about(self, item: Item, number: int = 0) -> Asked:
        """The requests of an item, the number-th of the stream; one that cannot be sent has its error for a result."""
        try:
            given = cut_one(item, f"items[{number}]")
            parts = list(given.parts)
            cut = Cut(iter(parts), given.total)
            call = calls.score_of(cut, self.alpha, self.guarantee, "per_row", self.model, self.version)
            requests = [calls.with_priority(request, self.priority) for request in call.requests]
        except LatentserveError as error:
            wrong = error
            return Asked([], lambda _: wrong)

        def result(responses: list[pb.ScoreStreamResponse]) -> Result:
            for part, response in zip(parts, responses, strict=True):
                if response.code:
                    return from_code(response.code, part.told(response.message), response.retry_after_ms / 1000)
            try:
                return call.join([response.response for response in responses])
            except LatentserveError as error:  # the model changed between two parts of the item
                return error

        return Asked(requests, result)


class Feed:
    """Items on their way to a blocking stream: gRPC takes requests in a thread of its own, the caller the results."""

    def __init__(self, items: Iterable[Item], question: Question) -> None:
        self._items = items
        self._question = question
        self._asked: queue.SimpleQueue[Asked | Exception | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(ITEMS_AHEAD)
        self._closed = False

    def requests(self) -> Iterator[pb.ScoreStreamRequest]:
        """For gRPC: waits while too many items are ahead."""
        number, place = itertools.count(), itertools.count()
        try:
            items = iter(self._items)
            while self._room.acquire() and not self._closed:
                asked = self._question.about(next(items), next(place))
                self._asked.put(asked)
                for request in asked.requests:
                    yield pb.ScoreStreamRequest(id=next(number), request=request)
        except StopIteration:
            self._asked.put(None)
        except Exception as error:  # the caller's own iterable failed: it is told, in its own thread
            self._asked.put(error)

    def taken(self) -> Iterator[Asked]:
        """For the caller: the items that were asked about, in order; each makes room when it is done with."""
        while (asked := self._asked.get()) is not None:
            if isinstance(asked, Exception):
                raise asked
            yield asked
            self._room.release()

    def close(self) -> None:
        """The stream is over, or nobody wants it any more."""
        self._closed = True
        self._room.release()
        self._asked.put(None)


def results(
    method: Any, items: Iterable[Item], question: Question, timeout_seconds: float | None, metadata: Metadata = ()
) -> Iterator[Result]:
    """Streams items through a blocking channel's method. Raises if the stream breaks, or if `items` does."""
    feed = Feed(items, question)
    call = method(feed.requests(), timeout=timeout_seconds, metadata=metadata)
    if not call.add_callback(feed.close):
        feed.close()
    try:
        for asked in feed.taken():
            responses = list(itertools.islice(call, len(asked.requests)))
            yield _result(asked, responses)
        for _ in call:  # its end: raises unless all was well
            pass
    except grpc.RpcError as error:
        raise error_of(error) from error
    finally:
        feed.close()
        call.cancel()


async def results_async(
    method: Any,
    items: Iterable[Item] | AsyncIterable[Item],
    question: Question,
    timeout_seconds: float | None,
    metadata: Metadata = (),
) -> AsyncIterator[Result]:
    """As `results`, for asyncio."""
    line: asyncio.Queue[Asked | Exception | None] = asyncio.Queue()
    room = asyncio.Semaphore(ITEMS_AHEAD)
    call = method(timeout=timeout_seconds, metadata=metadata)
    call.add_done_callback(lambda _: line.put_nowait(None))
    feeder = asyncio.create_task(_feed(call, items, question, line, room))
    try:
        while (asked := await line.get()) is not None:
            if isinstance(asked, Exception):
                raise asked
            responses = [await call.read() for _ in asked.requests]
            yield _result(asked, [response for response in responses if response is not grpc.aio.EOF])
            room.release()
        await call.read()  # its end: raises unless all was well
    except grpc.RpcError as error:
        raise error_of(error) from error
    finally:
        feeder.cancel()
        call.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(
    call: Any,
    items: Iterable[Item] | AsyncIterable[Item],
    question: Question,
    line: asyncio.Queue[Asked | Exception | None],
    room: asyncio.Semaphore,
) -> None:
    number, place = itertools.count(), itertools.count()
    try:
        async with contextlib.aclosing(_async(items)) as taken:
            while await room.acquire():
                item = await anext(taken)
                if isinstance(item, (str, PathLike)):  # not on the event loop: a file may take its time
                    asked = await asyncio.to_thread(question.about, item, next(place))
                else:
                    asked = question.about(item, next(place))
                line.put_nowait(asked)
                for request in asked.requests:
                    if not await _send(call, pb.ScoreStreamRequest(id=next(number), request=request)):
                        return
    except StopAsyncIteration:
        await call.done_writing()
        line.put_nowait(None)
    except Exception as error:  # the caller's own iterable failed
        line.put_nowait(error)


async def _send(call: Any, request: pb.ScoreStreamRequest) -> bool:
    """Returns whether it went out; if not the stream has ended, and whoever reads from it hears why.

    Goes around `call.write`, which would then replace the server's status by one of its own, and answers that have come
    would be lost: https://github.com/grpc/grpc/issues/36066.
    """
    try:
        await call.wait_for_connection()
        await call._cython_call.send_serialized_message(request.SerializeToString())
    except Exception:
        return False
    return True


async def _async(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _result(asked: Asked, responses: list[pb.ScoreStreamResponse]) -> Result:
    if len(responses) < len(asked.requests):
        raise InternalError("the server ended the stream before it had answered all of it")
    return asked.result(responses)
