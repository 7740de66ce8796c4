"""What a peer may ask of us, and how long it may keep us waiting: floods, windows that stay shut, bodies that stop."""

from __future__ import annotations

import asyncio
import gzip
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from service.transport.http2.budget import Budget, Hold, Share
from service.transport.http2.closings import LINES_PER_MINUTE, Closings
from service.transport.http2.frames import ProtocolError
from service.transport.http2.guard import Guard
from service.transport.http2.limits import Limits, most_connections
from service.transport.http2.memory import Memory
from service.transport.http2.patience import Patience
from tests.service.transport.http2_peer import (
    CALL,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    Served,
    block,
    call,
    head,
    raw,
)

CANCEL = (8).to_bytes(4)
FAST = Limits(turn_work=2**20)


def serve(
    body: Callable[[Served], Awaitable[None]], limits: Limits | None = None, max_request_bytes: int = 2**22
) -> None:
    async def run() -> None:
        served = Served(limits, max_request_bytes)
        await served.send(PREFACE + raw(SETTINGS, 0, 0))
        served.frames()
        await body(served)
        assert await served.is_honest()

    asyncio.run(asyncio.wait_for(run(), 60))


def timed(seconds: str) -> Fields:
    return [*CALL, ("grpc-timeout", seconds)]


FLOODS = {
    "PING": raw(PING, 0, 0, bytes(8)),
    "PING with ACK": raw(PING, 1, 0, bytes(8)),
    "SETTINGS": raw(SETTINGS, 0, 0),
    "SETTINGS with ACK": raw(SETTINGS, 1, 0),
    "PRIORITY": raw(PRIORITY, 0, 5, bytes(5)),
    "WINDOW_UPDATE": raw(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
    "WINDOW_UPDATE of a stream": raw(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
    "empty DATA": raw(DATA, 0, 1),
    "DATA of padding alone": raw(DATA, 8, 1, b"\0"),
    "GOAWAY": raw(GOAWAY, 0, 0, bytes(8)),
    "an unknown frame": raw(0x42, 0, 0, b"x"),
    "RST_STREAM of a stream that is over": raw(RST_STREAM, 0, 3, CANCEL),
    "DATA of a stream that is over": raw(DATA, 0, 3, b""),
    "malformed requests": b"",
}


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_bring_nothing_are_answered_by_calm(name: str) -> None:
    async def body(served: Served) -> None:
        flood = [FLOODS[name]] * 6000
        if name == "malformed requests":
            malformed = block([field for field in CALL if field[0] != ":path"])
            flood = [raw(HEADERS, 5, 5 + 2 * number, malformed) for number in range(6000)]
        await served.send(head(1) + head(3) + raw(RST_STREAM, 0, 3, CANCEL) + b"".join(flood))
        assert served.seen()[-1] == "goaway 11"
        served.connection.connection_lost(None)
        assert served.reasons == ["calm"]

    serve(body, Limits(calm_frames_per_second=0.0))


def test_what_a_client_needs_to_take_large_answers_is_no_flood() -> None:
    """Two WINDOW_UPDATE for each DATA frame, as some clients send: 20,000 of them."""

    async def body(served: Served) -> None:
        large = struct.pack(">BI", 0, 2**21) + bytes(2**21)
        received = 0
        for stream in range(1, 161, 2):
            await served.send(head(stream))
            for at in range(0, len(large), 2**14):
                await served.send(raw(DATA, int(at + 2**14 >= len(large)), stream, large[at : at + 2**14]))
            while True:
                sizes = [len(payload) for kind, _, _, payload in served.frames() if kind == DATA]
                received += sum(sizes)
                if not sizes:
                    break
                more = b"".join(
                    raw(WINDOW_UPDATE, 0, 0, size.to_bytes(4)) + raw(WINDOW_UPDATE, 0, stream, size.to_bytes(4))
                    for size in sizes
                )
                await served.send(more)
        assert received == 80 * len(large)
        assert not served.transport.eof

    serve(body, Limits(calm_frames=2000, calm_frames_per_second=0.0))


def test_a_guard_forgets_as_time_goes_by_and_as_work_is_done() -> None:
    now = 0.0
    guard = Guard("things", 10, 2.0, lambda: now)
    for _ in range(10):
        guard.count()
    with pytest.raises(ProtocolError, match="got too many things"):
        guard.count()
    now = 5.0  # ten more have leaked out
    for _ in range(9):
        guard.count()
    guard.forgive(3)
    for _ in range(3):
        guard.count()
    with pytest.raises(ProtocolError):
        guard.count(2)


def test_streams_cancelled_about_when_their_deadline_passes_are_no_rapid_reset() -> None:
    """Under overload every caller leaves at its deadline, a moment before we see it pass."""

    async def body(served: Served) -> None:
        served.echo.gate.clear()
        for stream in range(1, 401, 2):
            await served.send(head(stream, fields=timed("1m")) + raw(DATA, 1, stream, HELLO))
            await asyncio.sleep(0.001)
            await served.send(raw(RST_STREAM, 0, stream, CANCEL))
        assert not served.transport.eof
        for stream in range(401, 425, 2):  # these had all the time there is
            await served.send(head(stream, fields=timed("1H")) + raw(RST_STREAM, 0, stream, CANCEL))
        assert served.seen()[-1] == "goaway 11"
        served.echo.gate.set()

    serve(body, Limits(resets=10, resets_per_second=0.0))


@pytest.mark.parametrize("size", [17_000, 60_000, 100_000])
def test_headers_over_the_limit_fail_their_stream_and_no_other(size: int) -> None:
    async def body(served: Served) -> None:
        await served.send(head(1))
        encoded = block([*CALL, ("authorization", "a" * size)])
        parts = [encoded[at : at + 2**14] for at in range(0, len(encoded), 2**14)]
        frames = [raw(CONTINUATION, 0, 3, part) for part in parts]
        frames[0] = raw(HEADERS, 0, 3, parts[0])
        frames[-1] = raw(frames[-1][3], 4, 3, parts[-1])
        await served.send(b"".join(frames) + raw(DATA, 1, 3, HELLO))
        assert served.seen() == ["end 3 8", "reset 3 0"]
        await served.send(raw(DATA, 1, 1, HELLO) + raw(HEADERS, 4, 5, block(CALL)) + raw(DATA, 1, 5, HELLO))
        assert served.seen() == ["data 1 10", "end 1 0", "data 5 10", "end 5 0"]

    serve(body)


def test_a_small_block_that_stands_for_large_headers_is_not_unpacked() -> None:
    async def body(served: Served) -> None:
        await served.send(raw(HEADERS, 4, 1, block([*CALL, ("x", "a" * 3900)])) + raw(DATA, 1, 1, HELLO))
        await served.send(raw(HEADERS, 5, 3, block(CALL) + b"\xbe" * 12_000))
        assert served.seen()[-1] == "goaway 11"

    serve(body)


@pytest.mark.parametrize("payload", [b"", b"\x00"])
def test_header_blocks_that_do_not_end_are_ended(payload: bytes) -> None:
    async def body(served: Served) -> None:
        await served.send(raw(HEADERS, 1, 1, block(CALL)) + 40 * raw(CONTINUATION, 0, 1, payload))
        assert served.seen() == ["goaway 11"]

    serve(body)


@pytest.mark.parametrize("path", [b"/\xff", b"/caf\xe9/X", b"\xfe\xff", b"/\xed\xa0\x80"])
def test_a_path_that_is_not_utf8_fails_its_call_and_no_other(path: bytes) -> None:
    async def body(served: Served) -> None:
        await served.send(head(1))
        odd = block([("content-type", "application/grpc"), ("te", "trailers")])
        post = block([(":method", "POST"), (":scheme", "http")])
        await served.send(raw(HEADERS, 5, 3, post + b"\x04" + bytes([len(path)]) + path + odd))
        assert served.seen() == ["end 3 12"]
        await served.send(raw(DATA, 1, 1, HELLO))
        assert served.seen() == ["data 1 10", "end 1 0"]

    serve(body)


def test_a_peer_that_does_not_read_is_not_read_from() -> None:
    async def body(served: Served) -> None:
        served.connection.pause_writing()
        assert not served.transport.reading
        await served.send(b"".join(call(stream) for stream in range(1, 99, 2)))
        assert served.seen() == []
        served.connection.resume_writing()
        await served.settle()
        assert served.transport.reading
        assert len(served.seen()) == 2 * 49

    serve(body)


def test_answers_that_their_client_gives_no_room_for_are_bounded_and_end_at_their_deadline() -> None:
    async def body(served: Served) -> None:
        await served.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        message = struct.pack(">BI", 0, 10_000) + bytes(10_000)
        for stream in range(1, 21, 2):
            await served.send(head(stream, fields=timed("50m")) + raw(DATA, 1, stream, message))
        assert served.seen() == ["settings", *(f"end {stream} 8" for stream in range(11, 21, 2))]
        assert served.shared.unsent.held == 5 * 10_005
        await asyncio.sleep(0.1)
        assert served.seen() == [f"reset {stream} 8" for stream in range(1, 11, 2)]
        assert served.shared.unsent.held == 0
        assert not served.connection.streams

    serve(body, Limits(send_bytes=110_000))


def test_an_answer_that_is_cancelled_gives_its_room_back() -> None:
    async def body(served: Served) -> None:
        await served.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 3)) + call(1) + call(3))
        assert served.shared.unsent.held == 2 * 7
        await served.send(raw(RST_STREAM, 0, 1, CANCEL))
        assert served.shared.unsent.held == 7
        served.connection.connection_lost(None)
        assert served.shared.unsent.held == 0

    serve(body)


@pytest.mark.parametrize(
    "frame",
    [
        raw(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
        raw(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
        raw(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 4, 1)),
        raw(PING, 0, 0, bytes(8)),
    ],
)
def test_a_frame_costs_the_same_however_many_streams_are_open(frame: bytes) -> None:
    """Counted in function calls and looks at streams: one stream waits for room, the others have nothing to send."""
    counts = []

    async def body(served: Served) -> None:
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        num_streams = 999 if counts else 9
        await served.send(b"".join(head(stream) for stream in range(1, 2 * num_streams, 2)))
        await served.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) + raw(DATA, 1, 1, HELLO))
        assert list(served.connection.out._waiting) == [1]
        sys.setprofile(count)
        for _ in range(5):
            served.connection.data_received(frame)
        sys.setprofile(None)
        counts.append(calls)

    serve(body)
    serve(body)
    assert counts[1] < counts[0] + 20


def test_a_connection_that_has_much_to_say_leaves_the_others_their_turn() -> None:
    async def body(served: Served) -> None:
        turns: list[int] = []
        taken = 0
        take = served.connection._incoming.take

        def counted(*frame: object) -> int:
            nonlocal taken
            taken += 1
            return take(*frame)  # type: ignore[arg-type]

        served.connection._incoming.take = counted  # type: ignore[method-assign]
        served.connection.data_received(raw(PING, 0, 0, bytes(8)) * 1000)
        while taken < 1000:
            turns.append(taken)
            assert not served.transport.reading
            await asyncio.sleep(0)
        assert turns == list(range(100, 1000, 100))
        assert served.transport.reading

    serve(body, Limits(turn_work=100))


def test_a_connection_gets_as_much_of_the_memory_for_requests_as_it_leaves_free() -> None:
    budget = Budget(1000)
    one, two, three = Share(budget), Share(budget), Share(budget)
    assert one.take(500)
    assert not one.take(1)
    assert two.take(250)
    assert not two.fits(1)
    assert three.take(125)
    hold = Hold(three)
    assert hold.take(0)
    one.give_back(500)
    assert hold.take(250)
    hold.release(50)
    hold.release()
    assert (three.held, budget.held) == (125, 375)


def test_requests_that_are_never_whole_are_refused_by_the_size_they_tell() -> None:
    async def body(served: Served) -> None:
        begun = struct.pack(">BI", 0, 40_000)
        for stream in (1, 3, 5):
            await served.send(head(stream) + raw(DATA, 0, stream, begun + bytes(15_000)))
        assert served.seen() == ["end 5 8", "reset 5 0"]
        assert served.shared.received.held == 2 * 15_005
        served.connection.connection_lost(None)
        assert served.shared.received.held == 0

    serve(body, Limits(receive_bytes=120_000))


def test_memory_for_a_request_is_free_again_once_it_is_answered() -> None:
    async def body(served: Served) -> None:
        served.echo.gate.clear()
        await served.send(call(1) + head(3) + raw(DATA, 0, 3, HELLO))
        assert served.shared.received.held == 20
        served.echo.gate.set()
        await served.settle()
        assert served.shared.received.held == 10
        await served.send(raw(RST_STREAM, 0, 3, CANCEL))
        assert served.shared.received.held == 0

    serve(body)


def looks(served: Served, seconds: float) -> None:
    """As if so much time went by, a second at a look."""
    now = getattr(served, "now", time.monotonic())
    for _ in range(int(seconds)):
        now += 1
        served.connection.look(now)
    served.now = now  # type: ignore[attr-defined]


def test_a_body_that_stops_coming_ends_its_call() -> None:
    async def body(served: Served) -> None:
        await served.send(head(1) + raw(DATA, 0, 1, struct.pack(">BI", 0, 100) + bytes(50)) + call(3))
        served.frames()
        looks(served, 20)
        await served.send(raw(DATA, 0, 1, b"x"))  # too little to count
        looks(served, 15)
        await served.settle()
        assert served.seen()[-2:] == ["end 1 4", "reset 1 0"]
        assert served.echo.unread_codes == ["DEADLINE_EXCEEDED"]

    serve(body)


def test_a_body_that_comes_slowly_is_taken() -> None:
    async def body(served: Served) -> None:
        await served.send(head(1) + raw(DATA, 0, 1, struct.pack(">BI", 0, 160_000)))
        for _ in range(10):
            await served.send(raw(DATA, 0, 1, bytes(16_000)))
            looks(served, 12)
        await served.send(raw(DATA, 1, 1))
        assert served.seen()[-1].startswith("data 1 ")

    serve(body)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "preface"),
        (PREFACE[:10], "preface"),
        (PREFACE, "preface"),
        (PREFACE + raw(SETTINGS, 0, 0)[:5], "preface"),
        (PREFACE + raw(SETTINGS, 0, 0) + raw(HEADERS, 0, 1, block(CALL)), "headers"),
        (PREFACE + raw(SETTINGS, 0, 0) + head(1)[:-1], "frame"),
        (PREFACE + raw(SETTINGS, 0, 0) + raw(DATA, 0, 1, b"", 100), "frame"),  # of a stream that there is not
    ],
)
def test_what_has_begun_and_is_not_whole_in_time_is_ended(sent: bytes, reason: str) -> None:
    async def body(served: Served) -> None:
        served.connect()
        await served.send(sent)
        looks(served, 9)
        assert not served.transport.eof
        looks(served, 4)
        assert served.transport.eof
        served.connection.connection_lost(None)
        assert served.reasons == [reason]

    serve(body)


def test_a_peer_that_says_nothing_is_asked_whether_it_is_there() -> None:
    async def body(served: Served) -> None:
        looks(served, 70)
        assert served.seen() == ["ping"]
        await served.send(raw(PING, 1, 0, b"there?!?"))
        looks(served, 70)
        assert served.seen() == ["ping"]
        looks(served, 20)
        assert served.transport.closed
        served.connection.connection_lost(None)
        assert served.reasons == ["keepalive"]

    serve(body)


def test_a_connection_that_is_not_used_is_let_go() -> None:
    async def body(served: Served) -> None:
        for _ in range(4):
            looks(served, 25)
            await served.send(raw(PING, 1, 0, bytes(8)))
        looks(served, 5)
        assert served.seen() == ["goaway 0", "ping"]
        await served.send(call(1))  # was on its way
        assert served.seen() == ["data 1 10", "end 1 0"]
        await served.send(raw(PING, 1, 0, b"draining") + call(3))
        assert served.seen() == ["goaway 0", "reset 3 7"]

    serve(body, Limits(idle_seconds=100.0))


def test_a_peer_that_leaves_what_we_write_where_it_is_is_closed() -> None:
    async def body(served: Served) -> None:
        await served.send(head(1))
        served.connection.pause_writing()
        served.transport.buffered = 300_000
        looks(served, 50)
        served.transport.buffered = 299_000  # it took some
        looks(served, 55)
        assert not served.transport.closed
        looks(served, 10)
        assert served.transport.closed
        served.connection.connection_lost(None)
        assert served.reasons == ["unread"]

    serve(body)


def test_patience_is_not_at_an_end_while_frames_come() -> None:
    patience = Patience(Limits(), 0.0)
    for second in range(1, 100):  # at every look another frame happens to be in part
        assert patience.look(float(second), True, False, 0, ("frame", second), True) == ""


def test_with_one_connection_too_many_the_idlest_is_let_go() -> None:
    async def body(served: Served) -> None:
        first, first_transport = served.connection, served.transport
        served.connect()
        await served.send(PREFACE + raw(SETTINGS, 0, 0) + head(1))
        served.connect()
        assert first_transport.closed
        first.connection_lost(None)
        await served.send(PREFACE + raw(SETTINGS, 0, 0) + head(1))
        busy = served.transport
        served.connect()  # all of them have something to do
        await served.settle()
        assert served.transport.closed
        assert not busy.closed
        served.connection.connection_lost(None)
        assert served.reasons == ["refused", "refused"]
        served.server._connections.clear()

    serve(body, Limits(max_connections=2))


def test_there_are_no_more_connections_than_file_descriptors() -> None:
    assert most_connections(10) == 10
    assert most_connections(10**9) < 10**9


def test_closed_connections_are_counted_and_logged_without_flooding(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    now = 0.0
    closings = Closings(counted.append, lambda: now)
    caplog.set_level("INFO", "service.transport.http2.closings")
    for _ in range(100):
        closings.closed("calm", ("10.0.0.1", 1), "got too many")
        closings.closed("client", ("10.0.0.1", 1))
    now = 60.0
    closings.closed("calm", ("10.0.0.1", 1))
    assert counted.count("calm") == 101
    assert counted.count("client") == 100
    assert len(caplog.records) == LINES_PER_MINUTE + 2
    assert "got too many" in caplog.text
    assert "70 more connections" in caplog.text


def compressed(body: bytes, encoding: str = "gzip") -> bytes:
    fields = [*CALL, ("grpc-encoding", encoding)]
    return head(1, fields=fields) + raw(DATA, 1, 1, struct.pack(">BI", 1, len(body)) + body)


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (compressed(gzip.compress(b"hello")), ["data 1 10", "end 1 0"]),
        (compressed(gzip.compress(bytes(1_000_000))), ["data 1 16384"]),
        (compressed(gzip.compress(bytes(1_000_001))), ["end 1 8"]),
        (compressed(gzip.compress(bytes(15_000_000))), ["end 1 8"]),
        (compressed(gzip.compress(b"hello")[:-9]), ["end 1 13"]),
        (compressed(gzip.compress(b"hello") + b"x"), ["end 1 13"]),
        (compressed(b"hello"), ["end 1 13"]),
        (compressed(zlib.compress(b"hello")), ["end 1 13"]),
        (compressed(zlib.compress(b"hello"), "deflate"), ["end 1 12"]),
        (compressed(b"hello", "identity"), ["end 1 13"]),
        (head(1, fields=[*CALL, ("grpc-encoding", "gzip")]) + raw(DATA, 1, 1, HELLO), ["data 1 10", "end 1 0"]),
        (head(1) + raw(DATA, 1, 1, b"\2" + HELLO[1:]), ["end 1 13"]),
    ],
)
def test_messages_in_gzip(sent: bytes, answered: list[str]) -> None:
    async def body(served: Served) -> None:
        await served.send(sent)
        for _ in range(300):
            await asyncio.sleep(0)
        assert served.seen()[: len(answered)] == answered
        served.connection.connection_lost(None)
        assert served.shared.received.held == 0

    serve(body, FAST, max_request_bytes=1_000_000)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("takes", ["identity, deflate, gzip", "identity", "xgzip"])
@pytest.mark.parametrize("size", [100, 2000, 500_000])
def test_answers_in_gzip_for_those_who_take_it(on: bool, takes: str, size: int) -> None:
    async def body(served: Served) -> None:
        fields = [*CALL, ("grpc-accept-encoding", takes)]
        message = struct.pack(">BI", 0, size) + bytes(size)
        parts = [message[at : at + 2**14] for at in range(0, len(message), 2**14)]
        await served.send(raw(WINDOW_UPDATE, 0, 0, b"\0\x10\0\0") + raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**20)))
        await served.send(head(1, fields=fields))
        await served.send(*(raw(DATA, int(part is parts[-1]), 1, part) for part in parts))
        await asyncio.sleep(0.1)
        await served.settle()
        frames = served.frames()
        headers = dict(served.decoder.decode(next(payload for kind, _, _, payload in frames if kind == HEADERS)))
        answer = b"".join(payload for kind, _, _, payload in frames if kind == DATA)
        assert headers["grpc-accept-encoding"] == "identity,gzip"
        if on and "gzip" in takes.split(", ") and size >= 1024:
            assert headers["grpc-encoding"] == "gzip"
            assert answer[0] == 1
            assert gzip.decompress(answer[5:]) == message[5:]
        else:
            assert "grpc-encoding" not in headers
            assert answer == message

    serve(body, replace(FAST, compress_answers=on))


def test_freed_memory_goes_back_to_the_system_when_it_is_worth_it() -> None:
    async def run() -> None:
        budget = Budget(2**30)
        share, memory = Share(budget), Memory(budget)
        looks = []
        for more in (2**22, 2**24, -(2**22), -(2**23), 0):
            if more >= 0:
                assert share.take(more)
            else:
                share.give_back(-more)
            looks.append(memory.look())
        assert looks == [False, False, False, True, False]
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(run())
