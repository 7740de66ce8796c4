"""Measures how late the event loop is: every call waits for it, whatever the queues report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

EVERY_SECONDS = 0.1


async def watch(observe: Callable[[float], None], every_seconds: float = EVERY_SECONDS) -> None:
    """Reports how many seconds late each of its timers was, until it is cancelled."""
    while True:
        started = time.monotonic()
        await asyncio.sleep(every_seconds)
        observe(max(time.monotonic() - started - every_seconds, 0.0))
