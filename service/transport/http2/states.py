"""What a stream may be in, and what may come in each state, as a table. Source: RFC 9113, 5.1.

                      HEADERS            they end            we end
        IDLE  ------------------> OPEN ----------> HALF_CLOSED_REMOTE ----> CLOSED
                                   |    we end                       they end ^
                                   +-------------> HALF_CLOSED_LOCAL ---------+
        RST_STREAM leads from each of the open ones to RESET_BY_PEER or RESET_BY_US.

RFC 9113 knows one closed state, and tells its ways in apart in prose: here each has a row. PASSED are numbers below the
highest that were skipped, or closed so long ago that we no longer know how.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from service.transport.http2 import frames as wire
from service.transport.http2.stream import Stream


class State(Enum):
    """Of a stream."""

    IDLE = auto()
    OPEN = auto()
    HALF_CLOSED_REMOTE = auto()
    HALF_CLOSED_LOCAL = auto()
    CLOSED = auto()
    RESET_BY_PEER = auto()
    RESET_BY_US = auto()
    PASSED = auto()


class Verdict(Enum):
    """On a frame that came in a state."""

    ACCEPT = auto()
    IGNORE = auto()
    STREAM_CLOSED = auto()
    CONNECTION_CLOSED = auto()
    PROTOCOL_ERROR = auto()


_YES, _LATE = Verdict.ACCEPT, Verdict.IGNORE
_RST, _GONE, _WRONG = Verdict.STREAM_CLOSED, Verdict.CONNECTION_CLOSED, Verdict.PROTOCOL_ERROR
_COLUMNS = (wire.HEADERS, wire.DATA, wire.WINDOW_UPDATE, wire.RST_STREAM)  # PRIORITY may come in every state
_ROWS = {
    # "Receiving any frame other than HEADERS or PRIORITY on a stream in this state MUST be treated as a connection
    # error of type PROTOCOL_ERROR."
    State.IDLE: (_YES, _WRONG, _WRONG, _WRONG),
    State.OPEN: (_YES, _YES, _YES, _YES),
    # "... other than WINDOW_UPDATE, PRIORITY, or RST_STREAM ... a stream error of type STREAM_CLOSED."
    State.HALF_CLOSED_REMOTE: (_RST, _RST, _YES, _YES),
    # "An endpoint can receive any type of frame in this state."
    State.HALF_CLOSED_LOCAL: (_YES, _YES, _YES, _YES),
    # "An endpoint that receives any frames other than PRIORITY after receiving a frame with END_STREAM"; WINDOW_UPDATE
    # and RST_STREAM may have been on their way: "Endpoints MUST ignore [them] in this state".
    State.CLOSED: (_GONE, _RST, _LATE, _LATE),
    State.RESET_BY_PEER: (_RST, _RST, _LATE, _LATE),
    # "An endpoint MUST ignore frames that it receives on closed streams after it has sent a RST_STREAM frame."
    State.RESET_BY_US: (_LATE, _LATE, _LATE, _LATE),
    # 5.1.1: "An endpoint that receives an unexpected stream identifier MUST respond with ... PROTOCOL_ERROR."
    State.PASSED: (_WRONG, _LATE, _LATE, _LATE),
}
MAY_COME = {state: dict(zip(_COLUMNS, row, strict=True)) for state, row in _ROWS.items()}
"""The verdict on a frame, by the state of its stream, then by its kind."""


class Streams(dict[int, Stream]):
    """Those that are open, by number; remembers how the last ones closed.

    Args:
        remembered: how many of those that closed.
        on_close: called with a stream that has closed.

    Attributes:
        highest: number that was begun, refused ones too.
    """

    def __init__(self, remembered: int, on_close: Callable[[Stream], None]) -> None:
        super().__init__()
        self.highest = 0
        self._remembered = remembered
        self._on_close = on_close
        self._closed: dict[int, State] = {}

    def state(self, stream_id: int) -> State:
        """Of any number."""
        stream = self.get(stream_id)
        if stream is not None:
            if stream.done:
                return State.HALF_CLOSED_LOCAL
            return State.HALF_CLOSED_REMOTE if stream.ended else State.OPEN
        if stream_id > self.highest:
            return State.IDLE
        return self._closed.get(stream_id, State.PASSED)

    def close(self, stream_id: int, state: State) -> None:
        """It is over, for the reason that the state says."""
        if len(self._closed) >= self._remembered:
            del self._closed[next(iter(self._closed))]
        self._closed[stream_id] = state
        stream = self.pop(stream_id, None)
        if stream is not None:
            self._on_close(stream)
