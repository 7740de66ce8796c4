"""How long one peer may keep us waiting."""

from __future__ import annotations

from service.transport.http2.limits import Limits


class Patience:
    """Looks at a connection every so often, and says for what it is overdue.

    Args:
        limits: of it.
        now: seconds.

    Attributes:
        heard: when the peer was last heard of, as precise as the looks are frequent.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.heard = now
        self._waits = ("", 0)
        self._waits_since = now
        self._busy = now
        self._pinged = 0.0
        self._unread_bytes = 0
        self._taken = now

    def look(
        self, now: float, heard: bool, stalled: bool, unread_bytes: int, waits_for: tuple[str, int], has_streams: bool
    ) -> str:
        """Looks once.

        Args:
            now: seconds.
            heard: whether anything came since the last look.
            stalled: whether the peer leaves what we write where it is.
            unread_bytes: of that.
            waits_for: what has begun and is not whole, `preface`, `headers` or `frame`, or empty; and which one.
            has_streams: whether any is open.

        Returns:
            What the peer is overdue for; `ping`, if it should be asked whether it is there; or empty.
        """
        limits = self._limits
        if heard or stalled:  # whoever is not read from cannot be heard
            self.heard, self._pinged = now, 0.0
        if not stalled or unread_bytes != self._unread_bytes:
            self._taken, self._unread_bytes = now, unread_bytes
        if waits_for != self._waits:
            self._waits, self._waits_since = waits_for, now
        if has_streams:
            self._busy = now
        if now - self._taken > limits.unread_seconds:
            return "unread"
        waits, _ = waits_for
        if waits and not stalled:
            most = limits.preface_seconds if waits == "preface" else limits.header_seconds
            return waits if now - self._waits_since > most else ""
        if self._pinged and now - self._pinged > limits.keepalive_timeout_seconds:
            return "keepalive"
        if now - self._busy > limits.idle_seconds:
            return "idle"
        if now - self.heard > limits.keepalive_seconds and not self._pinged:
            self._pinged = now
            return "ping"
        return ""
