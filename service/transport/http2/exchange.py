"""One call, as the server keeps it beside its stream."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from service.transport.http2 import grpc_framing as framing
from service.transport.http2.messages import Body, Messages


class Exchange:
    """What a stream is to us: what came of the request, and who answers it."""

    __slots__ = ("begun", "body", "deadline", "handler", "seconds", "task", "timer", "trace_id")

    def __init__(self, handler: Any, seconds: float, trace_id: str, body: Body | Messages) -> None:
        self.handler = handler
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.trace_id = trace_id
        self.body = body
        self.begun = isinstance(body, Messages)  # to be answered; a stream's messages count for themselves
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def count_unread(self, code: int) -> None:
        """A call that ends before its task has begun is an answer all the same: the metrics have every one."""
        if not self.begun:
            self.handler.unread(framing.NAMES[code])
