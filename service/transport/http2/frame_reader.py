"""Bytes to frames: waits until one is whole, at a cost that does not depend on the pieces it comes in."""

from __future__ import annotations

from service.transport.http2 import frames as wire

HEAD_BYTES = 9
Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream, payload."""


class FrameReader:
    """Cuts what one peer sends.

    Args:
        max_frame_bytes: of a payload.

    Attributes:
        num_frames: frames so far.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._whole = b""  # what is cut from
        self._at = 0
        self._parts = bytearray()  # of a frame that is not whole
        self._needed = len(wire.PREFACE)
        self._greeted = False
        self.num_frames = 0

    def feed(self, data: bytes) -> None:
        """More came."""
        if self._at < len(self._whole):  # it was not cut to its end, and will be before this
            self._whole = self._whole[self._at :] + data
        elif not self._parts:
            self._whole = data
        else:
            self._parts += data
            if len(self._parts) < self._needed:
                return
            self._whole = bytes(self._parts)
            self._parts.clear()
        self._at = 0

    def next_frame(self) -> Frame | None:
        """The next whole frame.

        Raises:
            ProtocolError: what came is no HTTP/2, or a frame larger than may be.
        """
        if not self._greeted and not self._greeting():
            return None
        left = len(self._whole) - self._at
        if left < HEAD_BYTES:
            self._wait(HEAD_BYTES)
            return None
        high, low, kind, flags, stream_id = wire.FRAME_HEAD.unpack_from(self._whole, self._at)
        size = high << 8 | low
        if size > self._max_frame_bytes:
            expected = f"expected at most {self._max_frame_bytes}"
            raise wire.ProtocolError(wire.FRAME_SIZE_ERROR, f"got a frame of {size} bytes, {expected}")
        if left - HEAD_BYTES < size:
            self._wait(HEAD_BYTES + size)
            return None
        self.num_frames += 1
        start = self._at + HEAD_BYTES
        self._at = start + size
        return kind, flags, stream_id & wire.LARGEST_STREAM_ID, self._whole[start : self._at]

    def more(self) -> bool:
        """Whether bytes are there that `next_frame` has not seen."""
        return self._at < len(self._whole)

    def partial(self) -> tuple[int, int, int]:
        """Of the frame that has begun: bytes that are there (0: none has), kind and stream, both -1 if unknown yet."""
        if len(self._parts) < HEAD_BYTES or not self._greeted:
            return len(self._parts), -1, -1
        return len(self._parts), self._parts[3], int.from_bytes(self._parts[5:9]) & wire.LARGEST_STREAM_ID

    def _wait(self, needed: int) -> None:
        self._needed = needed
        self._parts += self._whole[self._at :]
        self._whole, self._at = b"", 0

    def _greeting(self) -> bool:
        got = self._whole[: len(wire.PREFACE)]
        if not wire.PREFACE.startswith(got):
            raise wire.ProtocolError(wire.PROTOCOL_ERROR, "expected HTTP/2 with prior knowledge")
        if len(got) < len(wire.PREFACE):
            self._wait(len(wire.PREFACE))
            return False
        self._greeted, self._at = True, len(wire.PREFACE)
        return True
