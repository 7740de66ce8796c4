"""Memory that was freed goes back to the system: else one peer's unread answers would stay ours for good."""

from __future__ import annotations

import asyncio
import ctypes
import sys

from service.transport.http2.budget import Budget

WORTH_BYTES = 8 * 2**20
"""Freed since the last time, before we ask for it: asking takes milliseconds."""


class Memory:
    """Watches what budgets give back.

    Args:
        budgets: to watch.
    """

    def __init__(self, *budgets: Budget) -> None:
        self._budgets = budgets
        self._most = 0
        self._trim = _trim()

    def look(self) -> bool:
        """Gives back what is worth it, in a thread. Returns whether it was."""
        held = sum(budget.held for budget in self._budgets)
        self._most = max(self._most, held)
        if self._most - held < WORTH_BYTES:
            return False
        self._most = held
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
        return True


def _trim() -> ctypes._NamedFuncPointer | None:
    """Glibc keeps what was freed beside what is not; others give it back by themselves."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
