"""A client's stream of scores: items are sent as they come, results return in their order.

At most ITEMS_AHEAD items are ahead of the results that the caller has taken, so the items may have no end. Each item is
split into requests as by `Client.score`; an error in one item is its result, and the stream goes on.
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
class Sent:
    """One item in flight.

    Attributes:
        requests: of the item; none if it could not be sent.
        result: makes the result from their responses.
    """

    requests: list[pb.ScoreRequest]
    result: Callable[[list[pb.ScoreStreamResponse]], Result]


@dataclass(frozen=True)
class ScoreOptions:
    """The score options of every item."""

    alpha: float | None
    guarantee: Guarantee
    model: str
    version: int
    priority: Priority
    maps: bool = False

    def requests_of(self, item: Item, number: int = 0) -> Sent:
        """The requests of the number-th item of the stream; the result of one that cannot be sent is its error."""
        try:
            given = cut_one(item, f"items[{number}]")
            parts = list(given.parts)
            cut = Cut(iter(parts), given.total)
            call = calls.score(cut, self.alpha, self.guarantee, "per_row", self.model, self.version, self.maps)
            requests = [calls.with_priority(request, self.priority) for request in call.requests]
        except LatentserveError as error:
            wrong = error
            return Sent([], lambda _: wrong)

        def result(responses: list[pb.ScoreStreamResponse]) -> Result:
            for part, response in zip(parts, responses, strict=True):
                if response.code:
                    return from_code(response.code, part.told(response.message), response.retry_after_ms / 1000)
            try:
                return call.join([response.response for response in responses])
            except LatentserveError as error:  # the model changed between two parts of the item
                return error

        return Sent(requests, result)


class Feed:
    """Items in flight of a blocking stream: gRPC takes requests in a thread of its own, the caller takes results."""

    def __init__(self, items: Iterable[Item], options: ScoreOptions) -> None:
        self._items = items
        self._options = options
        self._sent: queue.SimpleQueue[Sent | Exception | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(ITEMS_AHEAD)
        self._closed = False

    def requests(self) -> Iterator[pb.ScoreStreamRequest]:
        """For gRPC: waits while too many items are ahead."""
        number, place = itertools.count(), itertools.count()
        try:
            items = iter(self._items)
            while self._room.acquire() and not self._closed:
                sent = self._options.requests_of(next(items), next(place))
                self._sent.put(sent)
                for request in sent.requests:
                    yield pb.ScoreStreamRequest(id=next(number), request=request)
        except StopIteration:
            self._sent.put(None)
        except Exception as error:  # the caller's iterable failed: its error is raised in the caller's thread
            self._sent.put(error)

    def taken(self) -> Iterator[Sent]:
        """For the caller: the items that were sent, in order; each makes room when its result was taken."""
        while (sent := self._sent.get()) is not None:
            if isinstance(sent, Exception):
                raise sent
            yield sent
            self._room.release()

    def close(self) -> None:
        """Ends the stream."""
        self._closed = True
        self._room.release()
        self._sent.put(None)


def results(
    method: Any, items: Iterable[Item], options: ScoreOptions, timeout_seconds: float | None, metadata: Metadata = ()
) -> Iterator[Result]:
    """Streams items through a blocking channel's method. Raises if the stream breaks, or if `items` does."""
    feed = Feed(items, options)
    call = method(feed.requests(), timeout=timeout_seconds, metadata=metadata)
    if not call.add_callback(feed.close):
        feed.close()
    try:
        for sent in feed.taken():
            responses = list(itertools.islice(call, len(sent.requests)))
            yield _result(sent, responses)
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
    options: ScoreOptions,
    timeout_seconds: float | None,
    metadata: Metadata = (),
) -> AsyncIterator[Result]:
    """As `results`, for asyncio."""
    pending: asyncio.Queue[Sent | Exception | None] = asyncio.Queue()
    room = asyncio.Semaphore(ITEMS_AHEAD)
    call = method(timeout=timeout_seconds, metadata=metadata)
    call.add_done_callback(lambda _: pending.put_nowait(None))
    feeder = asyncio.create_task(_feed(call, items, options, pending, room))
    try:
        while (sent := await pending.get()) is not None:
            if isinstance(sent, Exception):
                raise sent
            responses = [await call.read() for _ in sent.requests]
            yield _result(sent, [response for response in responses if response is not grpc.aio.EOF])
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
    options: ScoreOptions,
    pending: asyncio.Queue[Sent | Exception | None],
    room: asyncio.Semaphore,
) -> None:
    number, place = itertools.count(), itertools.count()
    try:
        async with contextlib.aclosing(_async(items)) as taken:
            while await room.acquire():
                item = await anext(taken)
                if isinstance(item, (str, PathLike)):  # not on the event loop: a file may take its time
                    sent = await asyncio.to_thread(options.requests_of, item, next(place))
                else:
                    sent = options.requests_of(item, next(place))
                pending.put_nowait(sent)
                for request in sent.requests:
                    if not await _send(call, pb.ScoreStreamRequest(id=next(number), request=request)):
                        return
    except StopAsyncIteration:
        await call.done_writing()
        pending.put_nowait(None)
    except Exception as error:  # the caller's own iterable failed
        pending.put_nowait(error)


async def _send(call: Any, request: pb.ScoreStreamRequest) -> bool:
    """Returns whether it was sent; if not the stream has ended, and reading from it raises the reason.

    Bypasses `call.write`, which would then replace the server's status by its own and lose answers that have come:
    https://github.com/grpc/grpc/issues/36066.
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


def _result(sent: Sent, responses: list[pb.ScoreStreamResponse]) -> Result:
    if len(responses) < len(sent.requests):
        raise InternalError("the server ended the stream before it had answered all of it")
    return sent.result(responses)
