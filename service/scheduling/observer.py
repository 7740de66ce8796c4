"""What queues and instances report of themselves, and to whom."""

from __future__ import annotations

import logging
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Hears what happens. Must be quick; what it raises is logged and disturbs nobody.

    Every row that comes to `reserve` or `submit` ends in one call of `ran` or of `dropped`, and in no more.
    """

    def queued(self, rows: int, size_bytes: int) -> None:
        """Rows and bytes that wait now, those that room is reserved for included."""

    def ran(self, rows: int) -> None:
        """Rows that have their result, whether or not their client is still there to take it."""

    def dropped(self, reason: str, rows: int) -> None:
        """Rows that have none: `full`, `draining`, `expired`, `cancelled`, `invalid` or `failed`."""

    def waited(self, seconds: float, rows: int) -> None:
        """Rows left the queue for a batch after so long."""

    def formed(self, why: str) -> None:
        """A batch was formed: `full`, `free` (the engine was) or `window` (it had waited)."""

    def executed(self, rows: int, dead_rows: int, seconds: float) -> None:
        """A batch ran, well or not; dead rows are those whose client had left when it was done."""


class InstanceObserver(Protocol):
    """Hears what happens to instances (`service.scheduling.instances.Instance`)."""

    def ran(self, instance: Any, seconds: float, well: bool) -> None:
        """It ran a batch for so long, well or not."""

    def out(self, instance: Any, why: str) -> None:
        """It is out of service: `failed` or `stuck`."""

    def back(self, instance: Any) -> None:
        """It is in service again."""


class Unobserved:
    """Nobody listens."""

    def ran(self, instance: Any, seconds: float, well: bool) -> None:
        """See `InstanceObserver`; the others, too."""

    def out(self, instance: Any, why: str) -> None:
        """..."""

    def back(self, instance: Any) -> None:
        """..."""


class Tolerant:
    """An observer whose faults are logged instead of raised: a fault in counting must not cost a client its answer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._faulty: set[str] = set()

    def __getattr__(self, event: str) -> Any:
        def tell(*arguments: Any) -> None:
            try:
                getattr(self._observer, event)(*arguments)
            except Exception:
                if event not in self._faulty:  # once: it may happen for every row
                    log.exception("the observer failed when told `%s`", event)
                self._faulty.add(event)

        setattr(self, event, tell)
        return tell
