"""Who watches a service's health: one watch of grpcio's servicer for all of them.

That servicer writes to a watcher while it holds the lock under which health is set: one client that does not read would
hold up reloads and draining. And it forgets all watchers of a service when one of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any


class _Watched:
    """One service. To the servicer it is the context of a call."""

    def __init__(self) -> None:
        self.num_watchers = 0
        self.said: Any = None
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def write(self, response: Any) -> None:
        """The servicer says something new."""
        self.said = response
        self.changed.set()
        self.changed = asyncio.Event()


class Watchers:
    """All of them.

    Args:
        health_servicer: grpcio's.
    """

    def __init__(self, health_servicer: Any) -> None:
        self._health_servicer = health_servicer
        self._watched: dict[str, _Watched] = {}

    async def watch(self, request: Any) -> AsyncGenerator[Any, None]:
        """What is said of a service now, and whenever it changes; a watcher that is slow misses what was between."""
        watched = self._watched.get(request.service)
        if watched is None:
            watched = self._watched[request.service] = _Watched()
            watched.task = asyncio.ensure_future(self._health_servicer.Watch(request, watched))
        watched.num_watchers += 1
        told = None
        try:
            while True:
                changed = watched.changed
                if watched.said is not told:
                    told = watched.said
                    yield told
                else:
                    await changed.wait()
        finally:
            watched.num_watchers -= 1
            if not watched.num_watchers and watched.task is not None:
                del self._watched[request.service]
                watched.task.cancel()
