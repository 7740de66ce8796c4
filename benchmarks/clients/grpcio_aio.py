"""grpcio's asyncio client: a program as `asked` says."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from benchmarks.clients.asked import EMBED, SCORE_STREAM, Work, joined
from benchmarks.clients.grpcio_sync import options


async def main(work: Work) -> None:
    """Does what it was told."""
    if work.ca is None:
        channel = grpc.aio.insecure_channel(work.target, options(work))
    else:
        channel = grpc.aio.secure_channel(work.target, grpc.ssl_channel_credentials(work.ca), options(work))
    async with channel:
        await do(work, channel.unary_unary(EMBED), channel)  # bytes in, bytes out


async def do(work: Work, embed: Any, channel: grpc.aio.Channel) -> None:
    """The verb."""
    if work.verb == "stream":
        await hear(work, streamed(work, channel))
        return
    if work.verb not in ("call", "gzip"):
        await hear(work, embed(work.small))
    if work.verb == "many":
        for call in [embed(work.request) for _ in range(work.number)]:
            await hear(work, call)
        return
    if work.verb == "idle":
        await asyncio.sleep(work.number)
    elif work.verb == "gzip":
        await hear(work, embed(work.request, compression=grpc.Compression.Gzip))
    elif work.verb == "cancel":
        await cancelled(work, embed)
    else:
        await hear(work, embed(work.request, timeout=work.number / 1000 or None))
    if work.verb not in ("call", "gzip"):
        await hear(work, embed(work.small))
    if work.verb == "idle":
        await asyncio.sleep(1)


async def streamed(work: Work, channel: grpc.aio.Channel) -> bytes:
    """The answers of a stream."""
    stream: Any = channel.stream_stream(SCORE_STREAM)
    return joined([answer async for answer in stream(iter(work.stream))])


async def cancelled(work: Work, embed: Any) -> None:
    """A call that is cancelled when it is under way."""
    call = embed(work.request)
    asyncio.get_running_loop().call_later(work.number / 1000, call.cancel)
    try:
        work.heard(0, "", await call)
    except asyncio.CancelledError:
        work.heard((await call.code()).value[0], await call.details())


async def hear(work: Work, call: Any) -> None:
    """Waits, and says how it ended."""
    try:
        work.heard(0, "", await call)
    except grpc.aio.AioRpcError as error:
        work.heard(error.code().value[0], error.details() or "")


if __name__ == "__main__":
    asyncio.run(main(Work.read()))
