"""One row a sentence of RFC 9113 (HTTP/2) and RFC 7541 (HPACK): what comes, and what is answered.

Where no GOAWAY is the answer the connection goes on; a call on another one is answered right after each of them. Rows
are in the order of the sections of the RFCs.
"""

from __future__ import annotations

import asyncio
import struct

import pytest

from tests.service.transport.http2_peer import (
    CALL,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
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

PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION = 1, 3, 5, 6, 7, 9
GRPC: Fields = [("content-type", "application/grpc")]
FULL = block(CALL)
CANCEL = (8).to_bytes(4)


def goaway(code: int) -> list[str]:
    return [f"goaway {code}"]


def reset(code: int, stream: int = 1) -> list[str]:
    return [f"reset {stream} {code}"]


def ok(stream: int = 1) -> list[str]:
    return [f"data {stream} 10", f"end {stream} 0"]


def setting(name: int, value: int) -> bytes:
    return raw(SETTINGS, 0, 0, struct.pack(">HI", name, value))


def window(stream: int, more: int) -> bytes:
    return raw(WINDOW_UPDATE, 0, stream, more.to_bytes(4))


def without(name: str) -> Fields:
    return [field for field in CALL if field[0] != name]


def coded(prefix: bytes) -> bytes:
    """A call whose header block ends in these bytes."""
    return raw(HEADERS, 4, 1, FULL + prefix) + raw(DATA, 1, 1, HELLO)


def first(prefix: bytes) -> bytes:
    """A call whose header block begins with these bytes."""
    return raw(HEADERS, 4, 1, prefix + FULL) + raw(DATA, 1, 1, HELLO)


Row = tuple[str, bytes | list[bytes], list[str]]
"""What the RFC says; what comes, in one piece or several; what is answered."""
FRAMES: list[Row] = [
    ("4.1 a frame of unknown type is ignored", raw(0x16, 0, 0, b"x" * 8), []),
    ("4.1 a frame of unknown type on an idle stream is ignored", raw(0xFF, 0xFF, 7, b"x"), []),
    ("4.1 unused flags are ignored", raw(PING, 0x16, 0, bytes(8)), ["pong"]),
    ("4.1 the reserved bit is ignored", raw(PING, 0, 1 << 31, bytes(8)), ["pong"]),
    (
        "4.2 2^14 bytes are taken",
        call(1, struct.pack(">BI", 0, 2**14 - 5) + bytes(2**14 - 5)),
        ["data 1 16384", "end 1 0"],
    ),
    ("4.2 a frame above SETTINGS_MAX_FRAME_SIZE", head(1) + raw(DATA, 0, 1, bytes(2**14 + 1)), goaway(SIZE)),
    ("4.2 HEADERS above SETTINGS_MAX_FRAME_SIZE", raw(HEADERS, 4, 1, bytes(2**14 + 1)), goaway(SIZE)),
    ("4.2 an unknown frame above it", raw(0x20, 0, 0, b"", 2**24 - 1), goaway(SIZE)),
    ("4.2 a frame too small for what it must have", raw(HEADERS, 4 | 0x20, 1, bytes(3)), goaway(SIZE)),
    ("4.3 a block that cannot be decoded", raw(HEADERS, 4, 1, b"\xff" * 6), goaway(COMPRESSION)),
    ("4.3 PRIORITY within a header block", raw(HEADERS, 0, 1, FULL) + raw(PRIORITY, 0, 1, bytes(5)), goaway(PROTOCOL)),
    ("4.3 HEADERS of another stream within it", raw(HEADERS, 0, 1, FULL) + head(3), goaway(PROTOCOL)),
    ("4.3 an unknown frame within it", raw(HEADERS, 0, 1, FULL) + raw(0x20, 0, 1), goaway(PROTOCOL)),
    ("4.3 CONTINUATION of another stream", raw(HEADERS, 0, 1, FULL) + raw(CONTINUATION, 4, 3), goaway(PROTOCOL)),
    (
        "4.3 a refused stream's block is decoded all the same",
        head(1, fields=without(":path")) + call(3),
        [*reset(1), *ok(3)],
    ),
]
STREAMS: list[Row] = [
    ("5.1 idle: DATA", raw(DATA, 1, 1, HELLO), goaway(PROTOCOL)),
    ("5.1 idle: RST_STREAM", raw(RST_STREAM, 0, 1, CANCEL), goaway(PROTOCOL)),
    ("5.1 idle: WINDOW_UPDATE", window(1, 100), goaway(PROTOCOL)),
    ("5.1 idle: CONTINUATION", raw(CONTINUATION, 4, 1, FULL), goaway(PROTOCOL)),
    ("5.1 idle: PRIORITY is allowed", raw(PRIORITY, 0, 1, bytes(4) + b"\x0f"), []),
    ("5.1 open: WINDOW_UPDATE", head(1) + window(1, 100) + raw(DATA, 1, 1, HELLO), ok()),
    ("5.1 open: RST_STREAM ends it", head(1) + raw(RST_STREAM, 0, 1, CANCEL), []),
    ("5.1 half-closed (remote): DATA", call(1) + raw(DATA, 1, 1, b"x"), reset(CLOSED)),
    ("5.1 half-closed (remote): empty DATA", call(1) + raw(DATA, 1, 1), reset(CLOSED)),
    ("5.1 half-closed (remote): HEADERS", call(1) + head(1, True), reset(CLOSED)),
    ("5.1 half-closed (remote): CONTINUATION", call(1) + raw(CONTINUATION, 4, 1, FULL), goaway(PROTOCOL)),
    ("5.1 half-closed (remote): WINDOW_UPDATE is allowed", call(1) + window(1, 100), ok()),
    ("5.1 half-closed (remote): PRIORITY is allowed", call(1) + raw(PRIORITY, 0, 1, bytes(5)), ok()),
    ("5.1 half-closed (remote): RST_STREAM cancels", call(1) + raw(RST_STREAM, 0, 1, CANCEL), []),
    ("5.1 reset by the peer: DATA", head(1) + raw(RST_STREAM, 0, 1, CANCEL) + raw(DATA, 0, 1, b"x"), reset(CLOSED)),
    ("5.1 reset by the peer: HEADERS", head(1) + raw(RST_STREAM, 0, 1, CANCEL) + head(1, True), reset(CLOSED)),
    (
        "5.1 reset by the peer: CONTINUATION",
        head(1) + raw(RST_STREAM, 0, 1, CANCEL) + raw(CONTINUATION, 4, 1),
        goaway(PROTOCOL),
    ),
    ("5.1 reset by the peer: RST_STREAM is ignored", head(1) + 2 * raw(RST_STREAM, 0, 1, CANCEL), []),
    ("5.1 reset by the peer: WINDOW_UPDATE is ignored", head(1) + raw(RST_STREAM, 0, 1, CANCEL) + window(1, 1), []),
    ("5.1.1 an even number", head(2), goaway(PROTOCOL)),
    ("5.1.1 a number below the last", head(5, True, [*POST]) + head(3), ["data 5 51", "end 5 12", *goaway(PROTOCOL)]),
    ("5.1.1 number 0", head(0), goaway(PROTOCOL)),
    ("5.1.1 numbers may be skipped", call(99), ok(99)),
    ("5.1.1 the last number there is", call(2**31 - 1), ok(2**31 - 1)),
    ("5.1.2 more streams than we said", b"".join(head(1 + 2 * n) for n in range(1001)), reset(REFUSED, 2001)),
    ("5.3.1 PRIORITY on itself, idle", raw(PRIORITY, 0, 1, (1).to_bytes(4) + b"\0"), goaway(PROTOCOL)),
    ("5.3.1 PRIORITY on itself, open", head(1) + raw(PRIORITY, 0, 1, (1).to_bytes(4) + b"\0"), reset(PROTOCOL)),
    ("5.3.1 HEADERS on itself", raw(HEADERS, 4 | 0x20, 1, (1).to_bytes(4) + b"\0" + FULL), reset(PROTOCOL)),
    ("5.3.2 PRIORITY of an idle stream, then a lower one", raw(PRIORITY, 0, 9, bytes(5)) + call(1), ok()),
    ("5.4.1 nothing is taken after GOAWAY", raw(PING, 0, 1, bytes(8)) + call(1), goaway(PROTOCOL)),
]
KINDS: list[Row] = [
    ("6.1 DATA on stream 0", raw(DATA, 1, 0, HELLO), goaway(PROTOCOL)),
    ("6.1 padded DATA", head(1) + raw(DATA, 1 | 8, 1, b"\x03" + HELLO + bytes(3)), ok()),
    ("6.1 DATA of padding alone", head(1) + raw(DATA, 8, 1, b"\x03" + bytes(3)) + raw(DATA, 1, 1, HELLO), ok()),
    ("6.1 padding as long as the payload", head(1) + raw(DATA, 1 | 8, 1, b"\x04" + bytes(3)), goaway(PROTOCOL)),
    ("6.1 padded without a length", head(1) + raw(DATA, 1 | 8, 1), goaway(SIZE)),
    ("6.1 DATA in several frames", head(1) + raw(DATA, 0, 1, HELLO[:4]) + raw(DATA, 1, 1, HELLO[4:]), ok()),
    ("6.1 END_STREAM on an empty frame", head(1) + raw(DATA, 0, 1, HELLO) + raw(DATA, 1, 1), ok()),
    ("6.2 HEADERS on stream 0", raw(HEADERS, 4, 0, FULL), goaway(PROTOCOL)),
    ("6.2 padded HEADERS", raw(HEADERS, 4 | 8, 1, b"\x02" + FULL + bytes(2)) + raw(DATA, 1, 1, HELLO), ok()),
    ("6.2 padding longer than HEADERS", raw(HEADERS, 4 | 8, 1, b"\xff" + FULL), goaway(PROTOCOL)),
    ("6.2 HEADERS with priority", raw(HEADERS, 4 | 0x20, 1, bytes(5) + FULL) + raw(DATA, 1, 1, HELLO), ok()),
    (
        "6.2 HEADERS padded and with priority",
        raw(HEADERS, 4 | 8 | 0x20, 1, b"\x01" + bytes(5) + FULL + bytes(1)) + raw(DATA, 1, 1, HELLO),
        ok(),
    ),
    ("6.3 PRIORITY on stream 0", raw(PRIORITY, 0, 0, bytes(5)), goaway(PROTOCOL)),
    ("6.3 PRIORITY that is not 5 bytes", head(1) + raw(PRIORITY, 0, 1, bytes(4)), reset(SIZE)),
    ("6.3 PRIORITY that is not 5 bytes, idle", raw(PRIORITY, 0, 1, bytes(6)), goaway(SIZE)),
    ("6.3 PRIORITY with exclusive dependency", raw(PRIORITY, 0, 3, b"\x80\0\0\x01\xff") + call(1), ok()),
    ("6.4 RST_STREAM on stream 0", raw(RST_STREAM, 0, 0, CANCEL), goaway(PROTOCOL)),
    ("6.4 RST_STREAM of an idle stream", call(1) + raw(RST_STREAM, 0, 3, CANCEL), goaway(PROTOCOL)),
    ("6.4 RST_STREAM that is not 4 bytes", head(1) + raw(RST_STREAM, 0, 1, bytes(3)), goaway(SIZE)),
    ("6.5 SETTINGS are acknowledged", setting(0x3, 10), ["settings"]),
    ("6.5 SETTINGS without a value", raw(SETTINGS, 0, 0), ["settings"]),
    ("6.5 SETTINGS with ACK and a payload", raw(SETTINGS, 1, 0, bytes(6)), goaway(SIZE)),
    ("6.5 SETTINGS on a stream", raw(SETTINGS, 0, 1), goaway(PROTOCOL)),
    ("6.5 SETTINGS not a multiple of 6 bytes", raw(SETTINGS, 0, 0, bytes(7)), goaway(SIZE)),
    ("6.5 an ACK is not acknowledged", raw(SETTINGS, 1, 0), []),
    ("6.5.2 ENABLE_PUSH 0", setting(0x2, 0), ["settings"]),
    ("6.5.2 ENABLE_PUSH 2", setting(0x2, 2), goaway(PROTOCOL)),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", setting(0x4, 2**31), goaway(FLOW)),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31 - 1", setting(0x4, 2**31 - 1), ["settings"]),
    ("6.5.2 MAX_FRAME_SIZE 2^14 - 1", setting(0x5, 2**14 - 1), goaway(PROTOCOL)),
    ("6.5.2 MAX_FRAME_SIZE 2^24", setting(0x5, 2**24), goaway(PROTOCOL)),
    ("6.5.2 MAX_FRAME_SIZE 2^24 - 1", setting(0x5, 2**24 - 1), ["settings"]),
    ("6.5.2 an unknown setting is ignored", setting(0xFF, 1), ["settings"]),
    (
        "6.5.3 values in their order",
        raw(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 4, 100)) + call(1),
        ["settings", *ok()],
    ),
    ("6.6 a client cannot push", raw(PUSH_PROMISE, 4, 1, bytes(4) + FULL), goaway(PROTOCOL)),
    ("6.7 PING is answered", raw(PING, 0, 0, b"12345678"), ["pong"]),
    ("6.7 PING with ACK is not", raw(PING, 1, 0, b"12345678"), []),
    ("6.7 PING on a stream", raw(PING, 0, 1, bytes(8)), goaway(PROTOCOL)),
    ("6.7 PING that is not 8 bytes", raw(PING, 0, 0, bytes(6)), goaway(SIZE)),
    ("6.8 GOAWAY is taken", raw(GOAWAY, 0, 0, bytes(8)), []),
    ("6.8 GOAWAY with a reason", raw(GOAWAY, 0, 0, bytes(8) + b"bye"), []),
    ("6.8 GOAWAY on a stream", raw(GOAWAY, 0, 1, bytes(8)), goaway(PROTOCOL)),
    ("6.8 GOAWAY too small", raw(GOAWAY, 0, 0, bytes(4)), goaway(SIZE)),
    ("6.9 WINDOW_UPDATE of 0", window(0, 0), goaway(PROTOCOL)),
    ("6.9 WINDOW_UPDATE of 0 on a stream", head(1) + window(1, 0), reset(PROTOCOL)),
    ("6.9 WINDOW_UPDATE that is not 4 bytes", raw(WINDOW_UPDATE, 0, 0, bytes(3)), goaway(SIZE)),
    ("6.9 its reserved bit is ignored", window(0, 2**31 + 1), []),
    ("6.9.1 one byte of window, one byte of DATA", setting(0x4, 1) + call(1), ["settings", "data 1 1"]),
    ("6.9.1 a connection's window above 2^31 - 1", window(0, 2**31 - 1), goaway(FLOW)),
    ("6.9.1 a stream's window above 2^31 - 1", head(1) + window(1, 2**31 - 1), reset(FLOW)),
    (
        "6.9.1 more DATA than the stream's window",
        head(1) + 65 * raw(DATA, 0, 1, bytes(2**14)),
        ["end 1 13", "reset 1 0"],
    ),
    (
        "6.9.2 a later initial window counts for open streams",
        [setting(0x4, 0) + call(1), setting(0x4, 4)],
        ["settings", "settings", "data 1 4"],
    ),
    (
        "6.9.2 a window may become negative",
        [setting(0x4, 4) + call(1), setting(0x4, 2) + window(1, 2), window(1, 1)],
        ["settings", "data 1 4", "settings", "data 1 1"],
    ),
    (
        "6.9.2 an initial window that widens a stream's too far",
        head(1) + window(1, 2**30) + setting(0x4, 2**30),
        goaway(FLOW),
    ),
    (
        "6.10 CONTINUATION ends a block",
        raw(HEADERS, 0, 1, FULL[:9]) + raw(CONTINUATION, 4, 1, FULL[9:]) + raw(DATA, 1, 1, HELLO),
        ok(),
    ),
    (
        "6.10 several CONTINUATION",
        raw(HEADERS, 0, 1, FULL[:1])
        + raw(CONTINUATION, 0, 1, FULL[1:9])
        + raw(CONTINUATION, 4, 1, FULL[9:])
        + raw(DATA, 1, 1, HELLO),
        ok(),
    ),
    ("6.10 CONTINUATION on stream 0", raw(HEADERS, 0, 1, FULL) + raw(CONTINUATION, 4, 0), goaway(PROTOCOL)),
    ("6.10 CONTINUATION after END_HEADERS", head(1) + raw(CONTINUATION, 4, 1), goaway(PROTOCOL)),
    (
        "6.10 CONTINUATION after a CONTINUATION with END_HEADERS",
        raw(HEADERS, 0, 1, FULL) + raw(CONTINUATION, 4, 1) + raw(CONTINUATION, 4, 1),
        goaway(PROTOCOL),
    ),
    ("6.10 CONTINUATION after DATA", head(1) + raw(DATA, 0, 1, HELLO) + raw(CONTINUATION, 4, 1), goaway(PROTOCOL)),
    ("6.10 DATA instead of CONTINUATION", raw(HEADERS, 0, 1, FULL) + raw(DATA, 0, 1), goaway(PROTOCOL)),
    ("7 RST_STREAM with an unknown code", call(1) + raw(RST_STREAM, 0, 1, b"\xff" * 4), []),
    ("7 GOAWAY with an unknown code", raw(GOAWAY, 0, 0, bytes(4) + b"\xff" * 4), []),
]
MESSAGES: list[Row] = [
    ("8.1 trailers end a request", head(1) + raw(DATA, 0, 1, HELLO) + head(1, True, [("x", "y")]), ok()),
    (
        "8.1 trailers that do not end it",
        head(1) + raw(DATA, 0, 1, HELLO) + head(1, False, [("x", "y")]),
        reset(PROTOCOL),
    ),
    ("8.1 pseudo-header fields in trailers", head(1) + head(1, True, [(":path", "/")]), reset(PROTOCOL)),
    ("8.1 GET", head(1, True, [(":method", "GET"), *POST[1:]]), ["data 1 51", "end 1 12"]),
    ("8.1 HEAD has no body", head(1, True, [(":method", "HEAD"), *POST[1:]]), ["end 1 415"]),
    (
        "8.1 POST of something else",
        head(1) + raw(RST_STREAM, 0, 1, CANCEL) + head(3, True, POST),
        ["data 3 51", "end 3 12"],
    ),
    (
        "8.1.1 content-length that is true",
        head(1, fields=[*CALL, ("content-length", "10")]) + raw(DATA, 1, 1, HELLO),
        ok(),
    ),
    (
        "8.1.1 content-length too large",
        head(1, fields=[*CALL, ("content-length", "11")]) + raw(DATA, 1, 1, HELLO),
        reset(PROTOCOL),
    ),
    (
        "8.1.1 content-length too small for the sum of DATA",
        head(1, fields=[*CALL, ("content-length", "7")]) + raw(DATA, 0, 1, HELLO[:5]) + raw(DATA, 1, 1, HELLO[5:]),
        reset(PROTOCOL),
    ),
    ("8.1.1 content-length without DATA", head(1, True, [*CALL, ("content-length", "1")]), reset(PROTOCOL)),
    (
        "8.1.1 content-length of a request that is no call",
        head(1, False, [*POST, ("content-length", "1")]) + raw(DATA, 1, 1, b"xy"),
        ["data 1 51", "end 1 12", *reset(PROTOCOL)],
    ),
    ("8.1.1 content-length that is no number", head(1, fields=[*CALL, ("content-length", "1x")]), reset(PROTOCOL)),
    (
        "8.1.1 two that differ",
        head(1, fields=[*CALL, ("content-length", "1"), ("content-length", "2")]),
        reset(PROTOCOL),
    ),
    ("8.2 a name in capitals", head(1, fields=[*CALL, ("X-Test", "1")]), reset(PROTOCOL)),
    ("8.2.1 a name with a space", head(1, fields=[*CALL, ("x test", "1")]), reset(PROTOCOL)),
    ("8.2.1 a name with a colon", head(1, fields=[*CALL, ("x:test", "1")]), reset(PROTOCOL)),
    ("8.2.1 a name with NUL", head(1, fields=[*CALL, ("x\0", "1")]), reset(PROTOCOL)),
    ("8.2.1 a name beyond ASCII", head(1, fields=[*CALL, ("x\u00e9", "1")]), reset(PROTOCOL)),
    ("8.2.1 an empty name", head(1, fields=[*CALL, ("", "1")]), reset(PROTOCOL)),
    ("8.2.1 a value with LF", head(1, fields=[*CALL, ("x", "a\nb")]), reset(PROTOCOL)),
    ("8.2.1 a value with CR", head(1, fields=[*CALL, ("x", "a\rb")]), reset(PROTOCOL)),
    ("8.2.1 a value with NUL", head(1, fields=[*CALL, ("x", "a\0b")]), reset(PROTOCOL)),
    ("8.2.1 a value that begins with a space", head(1, fields=[*CALL, ("x", " a")]), reset(PROTOCOL)),
    ("8.2.1 a value that ends with a tab", head(1, fields=[*CALL, ("x", "a\t")]), reset(PROTOCOL)),
    ("8.2.1 an empty value is none of these", head(1, fields=[*CALL, ("x", "")]) + raw(DATA, 1, 1, HELLO), ok()),
    ("8.2.1 a malformed field in trailers", head(1) + head(1, True, [("X", "1")]), reset(PROTOCOL)),
    *(
        (f"8.2.2 {name}", head(1, fields=[*CALL, (name, "x")]), reset(PROTOCOL))
        for name in ("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade")
    ),
    ("8.2.2 te other than trailers", head(1, fields=[*without("te"), ("te", "trailers, deflate")]), reset(PROTOCOL)),
    ("8.3 an unknown pseudo-header field", head(1, fields=[(":test", "x"), *CALL]), reset(PROTOCOL)),
    ("8.3 one of responses", head(1, fields=[(":status", "200"), *CALL]), reset(PROTOCOL)),
    ("8.3 one after a regular field", head(1, fields=[*POST[:2], ("x", "y"), *POST[2:], *GRPC]), reset(PROTOCOL)),
    *((f"8.3.1 no {name}", head(1, fields=without(name)), reset(PROTOCOL)) for name in (":method", ":scheme", ":path")),
    *((f"8.3.1 {name} twice", head(1, fields=[POST[at], *CALL]), reset(PROTOCOL)) for at, (name, _) in enumerate(POST)),
    ("8.3.1 an empty :path", head(1, fields=[*POST[:2], (":path", ""), *GRPC]), reset(PROTOCOL)),
    ("8.3.1 no :authority is fine", head(1, fields=without(":authority")) + raw(DATA, 1, 1, HELLO), ok()),
    (
        "8.5 CONNECT with a :path",
        head(1, True, [(":method", "CONNECT"), (":authority", "x"), (":path", "/")]),
        reset(PROTOCOL),
    ),
    (
        "8.5 CONNECT is none of our calls",
        head(1, True, [(":method", "CONNECT"), (":authority", "x")]),
        ["data 1 51", "end 1 12"],
    ),
    (
        "10.5.1 headers above SETTINGS_MAX_HEADER_LIST_SIZE",
        head(1, fields=[*CALL, ("x", "a" * 17_000)]),
        ["end 1 8", "reset 1 0"],
    ),
]
HPACK: list[Row] = [
    ("2.3.3 an index beyond both tables", coded(b"\xff\xff\x03"), goaway(COMPRESSION)),
    ("2.3.3 a name's index beyond both tables", coded(b"\x7f\xff\x03\x01x"), goaway(COMPRESSION)),
    (
        "2.3.2 an entry of an earlier block",
        head(1, fields=[*CALL, ("x", "y")])
        + raw(DATA, 1, 1, HELLO)
        + raw(HEADERS, 4, 3, FULL + b"\xbe")
        + raw(DATA, 1, 3, HELLO),
        [*ok(), *ok(3)],
    ),
    ("4.2 a size update at the end of a block", coded(b"\x20"), goaway(COMPRESSION)),
    ("4.2 a size update at its beginning", first(b"\x20"), ok()),
    ("4.2 two size updates", first(b"\x20\x3f\xe1\x1f"), ok()),
    ("4.3 a size of 0 empties the table", call(1) + raw(HEADERS, 4, 3, b"\x20\xbe"), [*goaway(COMPRESSION)]),
    (
        "4.4 an entry larger than the table empties it",
        raw(HEADERS, 4, 1, FULL + b"\x40\x01x\x7f\x82\x1f" + bytes([97]) * 4097) + raw(DATA, 1, 1, HELLO),
        ok(),
    ),
    ("5.1 an integer that has no end", coded(b"\xff" + b"\x80" * 3), goaway(COMPRESSION)),
    ("5.2 a string longer than its block", coded(b"\x00\x01x\x7f"), goaway(COMPRESSION)),
    ("5.2 Huffman padding of 8 bits", coded(b"\x00\x01x\x82\x1f\xff"), goaway(COMPRESSION)),
    ("5.2 Huffman padding of zeros", coded(b"\x00\x01x\x81\x18"), goaway(COMPRESSION)),
    ("5.2 EOS within a Huffman string", coded(b"\x00\x01x\x84\xff\xff\xff\xff"), goaway(COMPRESSION)),
    ("6.1 index 0", coded(b"\x80"), goaway(COMPRESSION)),
    ("6.1 an indexed field", coded(b"\x90"), ok()),
    ("6.2.1 incremental indexing, indexed name", coded(b"\x7a\x01x"), ok()),
    ("6.2.1 incremental indexing, new name", coded(b"\x40\x01x\x01y"), ok()),
    ("6.2.1 incremental indexing, Huffman", coded(b"\x40\x81\xf3\x81\xf5"), ok()),
    ("6.2.2 without indexing, indexed name", coded(b"\x0f\x2b\x01x"), ok()),
    ("6.2.2 without indexing, new name", coded(b"\x00\x01x\x01y"), ok()),
    ("6.2.2 without indexing, Huffman", coded(b"\x00\x81\xf3\x81\xf5"), ok()),
    ("6.2.3 never indexed, indexed name", coded(b"\x1f\x2b\x01x"), ok()),
    ("6.2.3 never indexed, new name", coded(b"\x10\x01x\x01y"), ok()),
    ("6.2.3 never indexed, Huffman", coded(b"\x10\x81\xf3\x81\xf5"), ok()),
    ("6.3 a size above SETTINGS_HEADER_TABLE_SIZE", first(b"\x3f\xe2\x1f"), goaway(COMPRESSION)),
]
ALL = [*FRAMES, *STREAMS, *KINDS, *MESSAGES, *((f"7541 {name}", *rest) for name, *rest in HPACK)]


async def run(sent: bytes | list[bytes], expected: list[str]) -> None:
    served = Served()
    await served.send(PREFACE + raw(SETTINGS, 0, 0))
    first_of_all = served.frames()
    assert first_of_all[0][:2] == (SETTINGS, 0)  # 3.4: "MUST be the first frame the server sends"
    for piece in [sent] if isinstance(sent, bytes) else sent:
        await served.send(piece)
    assert served.seen() == expected
    if expected[-1:] and expected[-1].startswith("goaway"):
        assert served.transport.eof
    else:
        await served.send(raw(PING, 0, 0, b"there?!?"))
        assert served.seen() == ["pong"]
    assert await served.is_honest()


@pytest.mark.parametrize(("sent", "expected"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])
def test_a_sentence_of_the_rfc(sent: bytes | list[bytes], expected: list[str]) -> None:
    asyncio.run(run(sent, expected))
