"""When a client that was turned away may come again: said to ours, and in gRPC's own words to every client.

`retry-after-ms` is a number that a program may read. `grpc-retry-pushback-ms` is what gRPC's own retries obey where a
client has them for RESOURCE_EXHAUSTED: so many milliseconds, or -1: not at all. Source: gRFC A6, client retries.
"""

from __future__ import annotations

Metadata = tuple[tuple[str, str], ...]

RETRY_AFTER, PUSHBACK = "retry-after-ms", "grpc-retry-pushback-ms"
NEVER: Metadata = ((PUSHBACK, "-1"),)
"""The same request will be turned away again, whenever it comes."""


def after(seconds: float, seconds_left: float) -> Metadata:
    """The trailing metadata of a call that was turned away for now.

    Args:
        seconds: until it may come again; 0: nothing has to pass before, so that waiting would not help.
        seconds_left: until its deadline. A retry that would come after it is not worth waiting for: the caller hears at
            once why, and when to come again.
    """
    if seconds <= 0:
        return NEVER
    milliseconds = str(max(1, round(seconds * 1000)))
    return ((RETRY_AFTER, milliseconds), (PUSHBACK, milliseconds if seconds < seconds_left else "-1"))
