"""Counts what a peer should not do too often. What was counted is forgotten as time goes by and as work gets done."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.transport.http2 import frames as wire


class Guard:
    """A bucket with a leak.

    The leak is looked at when the bucket is full, and then counts back to the last look: a burst after silence may be
    up to twice as large.

    Args:
        what: is counted, for people.
        room: of the bucket.
        per_second: leaks out.
        clock: seconds.
    """

    def __init__(self, what: str, room: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._room = room
        self._per_second = per_second
        self._clock = clock
        self._level = 0.0
        self._looked = clock()

    def count(self, weight: int = 1) -> None:
        """One more.

        Raises:
            ProtocolError: that was one too many.
        """
        self._level += weight
        if self._level > self._room:
            now = self._clock()
            self._level = max(float(weight), self._level - (now - self._looked) * self._per_second)
            self._looked = now
            if self._level > self._room:
                raise wire.ProtocolError(wire.ENHANCE_YOUR_CALM, f"got too many {self._what}")

    def forgive(self, weight: float) -> None:
        """Work was done meanwhile."""
        if self._level:
            self._level = max(0.0, self._level - weight)
