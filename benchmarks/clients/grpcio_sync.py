"""grpcio's blocking client: a program as `asked` says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc

from benchmarks.clients.asked import EMBED, MOST_BYTES, PING_SECONDS, PING_TIMEOUT_SECONDS, SCORE_STREAM, Work, joined

OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.enable_retries", 0),  # a call that was lost is to be seen
)
PINGS: Sequence[tuple[str, Any]] = (
    ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def options(work: Work) -> Sequence[tuple[str, Any]]:
    """Of the channel."""
    return (*OPTIONS, *(PINGS if work.verb == "idle" else ()))


def main(work: Work) -> None:
    """Does what it was told."""
    if work.ca is None:
        channel = grpc.insecure_channel(work.target, options(work))
    else:
        channel = grpc.secure_channel(work.target, grpc.ssl_channel_credentials(work.ca), options(work))
    embed: Any = channel.unary_unary(EMBED)  # bytes in, bytes out
    with channel:
        do(work, embed, channel)


def do(work: Work, embed: Any, channel: grpc.Channel) -> None:
    """The verb."""
    if work.verb == "stream":
        stream: Any = channel.stream_stream(SCORE_STREAM)
        hear(work, lambda: joined(stream(iter(work.stream))))
        return
    if work.verb not in ("call", "gzip"):
        hear(work, lambda: embed(work.small))
    if work.verb == "many":
        for call in [embed.future(work.request) for _ in range(work.number)]:
            hear(work, call.result)
        return
    if work.verb == "idle":
        time.sleep(work.number)
    elif work.verb == "gzip":
        hear(work, lambda: embed(work.request, compression=grpc.Compression.Gzip))
    elif work.verb == "cancel":
        cancelled(work, embed)
    else:
        hear(work, lambda: embed(work.request, timeout=work.number / 1000 or None))
    if work.verb not in ("call", "gzip"):
        hear(work, lambda: embed(work.small))
    if work.verb == "idle":
        time.sleep(1)


def cancelled(work: Work, embed: Any) -> None:
    """A call that is cancelled when it is under way."""
    call = embed.future(work.request)
    time.sleep(work.number / 1000)
    call.cancel()
    try:
        work.heard(0, "", call.result())
    except grpc.FutureCancelledError:
        work.heard(call.code().value[0], call.details())


def hear(work: Work, ask: Any) -> None:
    """Asks, and says how it ended."""
    try:
        work.heard(0, "", ask())
    except grpc.RpcError as error:
        call: Any = error
        work.heard(call.code().value[0], call.details() or "")


if __name__ == "__main__":
    main(Work.read())
