"""Why connections were closed: counted, and logged without flooding."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

USUAL = frozenset({"client", "drained", "idle"})
LINES_PER_MINUTE = 30


class Closings:
    """Hears of every connection that was closed.

    Args:
        count: called with the reason.
        clock: seconds.
    """

    def __init__(self, count: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._minute = -1.0
        self._lines = 0

    def closed(self, reason: str, peer: object, why: str = "") -> None:
        """One was.

        Args:
            reason: one of a few.
            peer: whose it was.
            why: in words.
        """
        self._count(reason)
        if reason in USUAL:
            log.debug("connection of %s closed: %s", peer, reason)
            return
        minute = self._clock() // 60
        if minute != self._minute:
            if self._lines > LINES_PER_MINUTE:
                log.info("%d more connections were closed in a minute", self._lines - LINES_PER_MINUTE)
            self._minute, self._lines = minute, 0
        self._lines += 1
        if self._lines <= LINES_PER_MINUTE:
            log.info("connection of %s closed: %s%s", peer, reason, f" ({why})" if why else "")
