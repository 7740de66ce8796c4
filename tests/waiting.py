"""Waiting for what comes true by itself."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], seconds: float = 30.0, what: Callable[[], object] = str) -> None:
    """Fails, saying `what`, if it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what() or "it did not come true"
        time.sleep(0.05)
