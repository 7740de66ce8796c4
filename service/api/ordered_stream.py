"""Many requests over one call: read ahead within bounds, answered in their order.

The contract, each point of which has a test in tests/service/api/test_ordered_stream.py:

 1. Answers are written in the order of the requests, whichever is ready first.
 2. A request is under way from the moment it is read until its answer is written. Several are at once; when
    `max_requests` or `max_bytes` are, nothing more is read. So whoever does not take answers is not read from.
 3. What ends the reading (an error of `messages` or of `begin`) is raised once all that was read before is answered.
 4. After `stop` nothing more is read; what was read is answered.
 5. Nothing outlives `run`: if it is cancelled or fails, so is all that is under way cancelled.

Knows asyncio and bytes: no gRPC, no protobuf, no transport. One event loop, not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

Begin = Callable[[bytes], Coroutine[Any, Any, bytes]]
"""Takes a message and returns what will answer it; raises if the stream cannot go on after such a message."""
Write = Callable[[bytes], Awaitable[None]]
"""Sends an answer; returns when there is room for another."""


@dataclass(frozen=True)
class Bounds:
    """What one stream may have under way.

    Attributes:
        max_requests: half of QueueConfig.max_batch_rows, so that two streams of single rows fill a batch while another
            runs, and it takes more than a hundred streams to fill the queue.
        max_bytes: eight requests of 2 MiB, where our clients cut; the message that reaches it is still read whole.
    """

    max_requests: int = 32
    max_bytes: int = 16 * 2**20


class InOrder:
    """One stream.

    Args:
        begin: starts to answer a message.
        write: sends an answer.
        bounds: of what is under way.
    """

    def __init__(self, begin: Begin, write: Write, bounds: Bounds) -> None:
        self._begin = begin
        self._write = write
        self._bounds = bounds
        self._under_way: deque[tuple[asyncio.Task[bytes], int]] = deque()  # the answer to be, bytes of the request
        self._bytes = 0
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def run(self, messages: AsyncIterator[bytes]) -> bool:
        """Answers the messages; returns whether they were read to their end, which they are not after `stop`.

        Raises:
            Exception: what `messages`, `begin` or `write` raised.
        """
        reader = self._reader = asyncio.create_task(self._read(messages))
        reader.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                await self._until(lambda: bool(self._under_way) or reader.done())
                if not self._under_way:
                    break
                answer, num_bytes = self._under_way[0]
                await self._write(await answer)
                self._under_way.popleft()
                self._bytes -= num_bytes
                self._changed.set()
            if reader.cancelled():
                return False
            reader.result()
            return True
        finally:
            tasks = [reader, *(task for task, _ in self._under_way)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Reads no further; `run` returns when what was read is answered."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            self._under_way.append((asyncio.create_task(self._begin(message)), len(message)))
            self._bytes += len(message)
            self._changed.set()
            await self._until(self._has_room)

    def _has_room(self) -> bool:
        return len(self._under_way) < self._bounds.max_requests and self._bytes < self._bounds.max_bytes

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
