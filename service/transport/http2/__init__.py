"""gRPC over HTTP/2 on asyncio, as much of both as a server needs. Why it is here: docs/adr/0005-transport.md.

    limits      every limit there is           frames      the wire format
    frame_reader  bytes to frames              blocks      frames to header blocks
    headers     header blocks to headers, and what is wrong with them
    states      what a stream may be in, and what may come then (RFC 9113, 5.1)
    incoming    frames to streams              outgoing    answers to frames, as the peer's windows allow
    guard       what comes too often           patience    what comes too late
    budget      bytes that all connections share           closings  why they were closed
    memory      freed and given back
    connection  the life of one                stream      one exchange: the seam between protocol and gRPC
    grpc_framing, messages, compression, exchange, health_and_reflection, watchers, server  gRPC's calls on it

A peer that breaks the protocol on a stream loses the stream (RST_STREAM); one that breaks what they share is told
why (GOAWAY) and dropped. Nothing a peer does, or leaves undone, holds more than `Limits` say. Source: RFC 9113.
"""

from service.transport.http2.connection import Connection as Connection
from service.transport.http2.limits import Limits as Limits
