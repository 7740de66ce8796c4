"""Bytes that all connections together may hold, shared so that the last to come still gets some.

Everybody may hold as much as is left free: one connection half of all, with two of them a third each, and so on; a few
that take all they can leave an ever smaller but never empty rest. Source: Choudhury and Hahne, Dynamic queue length
thresholds for shared-memory packet switches, IEEE/ACM Transactions on Networking 6(2), 1998 (alpha = 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from service.transport.http2.limits import Limits


class Budget:
    """What there is.

    Attributes:
        total: bytes.
        held: of them.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0


class Share:
    """What one connection holds of a budget.

    Attributes:
        held: bytes.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def fits(self, num_bytes: int) -> bool:
        """Whether so many more may be held."""
        budget = self._budget
        return self.held + num_bytes <= budget.total - budget.held - num_bytes

    def take(self, num_bytes: int) -> bool:
        """Holds them, if they fit."""
        if not self.fits(num_bytes):
            return False
        self.held += num_bytes
        self._budget.held += num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        """Holds them no longer."""
        self.held -= num_bytes
        self._budget.held -= num_bytes


class Hold:
    """What one request holds of a share, given back together."""

    __slots__ = ("_held", "_share")

    def __init__(self, share: Share) -> None:
        self._share = share
        self._held = 0

    def fits(self, num_bytes: int) -> bool:
        """Whether it may hold so many in all."""
        return self._share.fits(num_bytes - self._held)

    def take(self, num_bytes: int) -> bool:
        """Holds so many more, if they fit."""
        if not self._share.take(num_bytes):
            return False
        self._held += num_bytes
        return True

    def release(self, num_bytes: int | None = None) -> None:
        """Holds so many no longer, by default all."""
        given = self._held if num_bytes is None else min(num_bytes, self._held)
        self._held -= given
        self._share.give_back(given)


@dataclass
class Shared:
    """What all connections of a server have together.

    Attributes:
        limits: of each of them.
        received: bytes of requests.
        unsent: bytes of answers.
    """

    limits: Limits = field(default_factory=Limits)
    received: Budget = field(init=False)
    unsent: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.received = Budget(self.limits.receive_bytes)
        self.unsent = Budget(self.limits.send_bytes)
