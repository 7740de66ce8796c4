"""Admission to a queue: room for rows is reserved when a request is known, before anything of it is decoded.

The contract, each point of which has a test in tests/service/scheduling/test_admission.py:

 1. What is reserved counts like what waits, against the queue's bounds in rows and bytes. Over them, while draining
    and past the deadline a request is rejected at once, and counted.
 2. Rows for which room is reserved come to wait without another check.
 3. Room is given back exactly once, whichever way the request goes; if its rows never come to wait, they are counted
    by why.
 4. Requests of low priority are admitted only while less than half of the room is taken, so that they shut out nobody.

One event loop, not thread-safe.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from latentserve.errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, Unavailable


class Held(Protocol):
    """What waits already."""

    rows: int
    size_bytes: int


@dataclass(frozen=True)
class QueueConfig:
    """Bounds of one queue.

    Attributes:
        max_batch_rows: rows of a batch.
        max_queue_rows: rows that may wait.
        max_queue_bytes: bytes that may wait.
        window_seconds: how long a batch that is not full waits after its first arrival.
    """

    max_batch_rows: int = 64
    max_queue_rows: int = 4096
    max_queue_bytes: int = 256 * 2**20
    window_seconds: float = 0.0


class Reservation:
    """Room reserved for rows that are on their way. A `with` block gives back what was not used.

    Attributes:
        rows: for which there is room.
        size_bytes: of them.
        deadline: of their request.
        kept: whether the room is still reserved.
    """

    def __init__(self, admission: Admission, rows: int, size_bytes: int, deadline: float) -> None:
        self._admission = admission
        self.rows = rows
        self.size_bytes = size_bytes
        self.deadline = deadline
        self.kept = True

    def fits(self, rows: int, size_bytes: int) -> bool:
        """Whether there is room for so much."""
        return self.kept and rows <= self.rows and size_bytes <= self.size_bytes

    def use(self) -> None:
        """Its rows begin to wait now. Raises Unavailable if nobody serves the queue any more."""
        if self._admission.closed:
            raise Unavailable("the server stopped before the rows ran")
        self.kept = False
        self._admission.forget(self)  # whoever lets them wait tells of it

    def give_back(self) -> None:
        """Gives the room back; once, however often it is called."""
        if self.kept:
            self.kept = False
            self._admission.forget(self)
            self._admission.changed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.kept:
            self._admission.lost(self, error)
            self.give_back()


class Admission:
    """Admits requests to one queue.

    Args:
        waiting: what waits behind it.
        retry_after: seconds until so many rows that are held will have run.
        dropped: called with rows that are not admitted, by reason.
        changed: called when room was given back.
        clock: seconds, monotonic.

    Attributes:
        rows: for which room is reserved.
        size_bytes: of them.
        shut: rejects what comes; rows for which room is reserved may still come.
        closed: nobody serves the queue any more.
    """

    def __init__(
        self,
        waiting: Held,
        retry_after: Callable[[int], float],
        dropped: Callable[[str, int], None],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._waiting = waiting
        self._retry_after = retry_after
        self._dropped = dropped
        self.changed = changed
        self._clock = clock
        self._arrivals: dict[Reservation, float] = {}  # the oldest first
        self.rows = 0
        self.size_bytes = 0
        self.shut = False
        self.closed = False

    def enter(self, bounds: QueueConfig, rows: int, size_bytes: int, deadline: float, priority: int) -> Reservation:
        """Reserves room.

        Raises:
            Unavailable: draining.
            DeadlineExceeded: the deadline has passed.
            Overloaded: there is no room; says when to retry.
        """
        if self.shut:
            self._dropped("draining", rows)
            raise Unavailable("the server is draining, ask another")
        if deadline <= self._clock():
            self._dropped("expired", rows)
            raise DeadlineExceeded("the deadline had passed on arrival")
        held_rows, held_bytes = self._waiting.rows + self.rows, self._waiting.size_bytes + self.size_bytes
        most_rows, most_bytes = bounds.max_queue_rows, bounds.max_queue_bytes
        is_full = held_rows + rows > most_rows or held_bytes + size_bytes > most_bytes
        if is_full or not lets_in(priority, max(held_rows / most_rows, held_bytes / most_bytes)):
            self._dropped("full", rows)
            fits = rows <= most_rows and size_bytes <= most_bytes  # once nothing waits
            raise Overloaded(
                f"queue is full: {held_rows} of {most_rows} rows and {held_bytes} of {most_bytes} bytes wait,"
                f" {rows} rows of {size_bytes} bytes came{'' if is_full else ', of low priority'}",
                retry_after_seconds=self._retry_after(held_rows) if fits else 0.0,
            )
        self.rows += rows
        self.size_bytes += size_bytes
        reservation = Reservation(self, rows, size_bytes, deadline)
        self._arrivals[reservation] = self._clock()
        return reservation

    def first_arrival(self) -> float:
        """When the oldest came of the requests that hold reservations; infinity if there are none."""
        return next(iter(self._arrivals.values()), math.inf)

    def forget(self, reservation: Reservation) -> None:
        """Its room is free again."""
        del self._arrivals[reservation]
        self.rows -= reservation.rows
        self.size_bytes -= reservation.size_bytes

    def lost(self, reservation: Reservation, error: BaseException | None) -> None:
        """Rows for which room was reserved will not come: counts them by why."""
        reason = reason_of(error)
        has_expired = reason == "cancelled" and reservation.deadline <= self._clock()
        self._dropped("expired" if has_expired else reason, reservation.rows)


LOW_SHARE = 0.5
"""Of the room that may be taken while requests of low priority are still admitted."""


def lets_in(priority: int, taken: float) -> bool:
    """Whether a request of this priority is admitted while such a share of the room is taken."""
    return priority >= 0 or taken < LOW_SHARE


def reason_of(error: BaseException | None) -> str:
    """Why rows did not run, as the observer of a queue knows it."""
    reasons: dict[type[BaseException], str] = {
        asyncio.CancelledError: "cancelled",
        Cancelled: "cancelled",
        DeadlineExceeded: "expired",
        Overloaded: "full",
        Unavailable: "draining",
        InvalidInput: "invalid",
    }
    return next((reason for kind, reason in reasons.items() if isinstance(error, kind)), "failed")
