"""Header blocks, which may come in several frames: HEADERS, then CONTINUATION. Source: RFC 9113, 4.3, 6.2 and 6.10."""

from __future__ import annotations

from service.transport.http2 import frames as wire
from service.transport.http2.limits import Limits

DEPENDS_ON_ITSELF = 0x100
"""A flag of ours beside those of HEADERS: what RFC 7540, 5.3.1 calls a stream error."""
Whole = tuple[int, int, bytes]
"""Stream, flags of its HEADERS, block."""


class Blocks:
    """Of one connection.

    Args:
        limits: of it.

    Attributes:
        stream_id: of the last one that came in several frames.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parts: list[bytes] = []
        self._flags = 0
        self.stream_id = 0

    @property
    def open(self) -> bool:
        """Whether one has begun and not ended."""
        return bool(self._parts)

    def begin(self, flags: int, stream_id: int, payload: bytes) -> Whole | None:
        """HEADERS. Returns the block if that is all of it.

        Raises:
            ProtocolError: it is malformed.
        """
        if not stream_id % 2:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, f"got stream {stream_id}, expected an odd number")
        payload = wire.unpadded(flags, payload)
        if flags & wire.WITH_PRIORITY:
            if len(payload) < 5:
                raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, "got HEADERS too short for their priority")
            if int.from_bytes(payload[:4]) & wire.LARGEST_STREAM_ID == stream_id:
                flags |= DEPENDS_ON_ITSELF
            payload = payload[5:]
        if flags & wire.END_HEADERS:
            return stream_id, flags, payload
        self._parts, self.stream_id, self._flags = [payload], stream_id, flags
        return None

    def go_on(self, flags: int, stream_id: int, payload: bytes) -> Whole | None:
        """CONTINUATION. Returns the block if that was the last of it.

        Raises:
            ProtocolError: nothing was to be continued, or the block is larger than may be.
        """
        if not self._parts or self.stream_id != stream_id:
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, "got CONTINUATION without HEADERS")
        self._parts.append(payload)
        limits = self._limits
        if len(self._parts) > limits.continuations + 1 or sum(map(len, self._parts)) > limits.header_block_bytes:
            what = f"got headers of more than {limits.header_block_bytes} bytes or {limits.continuations} CONTINUATION"
            raise wire.ProtocolError(wire.ENHANCE_YOUR_CALM, what)
        if not flags & wire.END_HEADERS:
            return None
        block = b"".join(self._parts)
        self._parts.clear()
        return stream_id, self._flags, block
