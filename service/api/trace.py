"""The trace that a request belongs to. Source: W3C Trace Context, https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace_id>[0-9a-f]{32})-[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})")


def trace_id(traceparent: str) -> str:
    """The id of a sampled trace from the header that names it, else empty."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found["trace_id"] if found and int(found["flags"], 16) & 1 else ""
