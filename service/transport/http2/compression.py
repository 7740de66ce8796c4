"""Messages in gzip, both ways, at the pace of the event loop: a piece at a time, and large answers in a thread."""

from __future__ import annotations

import asyncio
import zlib

from service.api.calls import Ended
from service.transport.http2.budget import Hold
from service.transport.http2.grpc_framing import INTERNAL, no_room, too_large

GZIP = 16 + zlib.MAX_WBITS
"""Window of zlib that says: gzip, and nothing else."""
PIECE_BYTES = 2**18
"""Inflated at once: about half a millisecond."""
FASTEST = 1


async def inflate(data: bytes, max_bytes: int, hold: Hold) -> bytes:
    """A message as it was before it was compressed. What it grows to is bounded while it grows.

    Args:
        data: gzip.
        max_bytes: of the message.
        hold: of the request.

    Raises:
        Ended: it is no gzip, too large, or there is no room for it.
    """
    inflater = zlib.decompressobj(GZIP)
    message = bytearray()
    rest = data
    while not inflater.eof:
        try:
            piece = inflater.decompress(rest, PIECE_BYTES)
        except zlib.error as error:
            raise Ended(INTERNAL, f"request: got a compressed message that is no gzip: {error}") from error
        rest = inflater.unconsumed_tail
        if not piece and not rest and not inflater.eof:
            raise Ended(INTERNAL, "request: got a part of a compressed message, expected all of it")
        message += piece
        if len(message) > max_bytes:
            raise too_large(max_bytes)
        if not hold.take(len(piece)):
            raise no_room(f"request: got {len(data)} bytes of gzip, for which there is no room now once inflated")
        if rest:
            await asyncio.sleep(0)
    if inflater.unused_data:
        raise Ended(INTERNAL, f"request: got {len(inflater.unused_data)} bytes after a compressed message")
    return bytes(message)


async def deflate(message: bytes) -> bytes:
    """A message in gzip."""
    if len(message) <= PIECE_BYTES // 8:
        return zlib.compress(message, FASTEST, GZIP)
    return await asyncio.get_running_loop().run_in_executor(None, zlib.compress, message, FASTEST, GZIP)
