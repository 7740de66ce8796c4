"""A unary request's message out of the pieces that it comes in."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from service.api.calls import Ended
from service.transport.http2.budget import Budget, Share
from service.transport.http2.grpc_framing import PREFIX, framed
from service.transport.http2.messages import Body

MOST = 10_000


def body(headers: dict[bytes, bytes] | None = None) -> Body:
    stream: Any = SimpleNamespace(headers=headers or {}, connection=SimpleNamespace(received=Share(Budget(2**20))))
    return Body(stream, MOST)


@pytest.mark.parametrize("seed", range(20))
def test_a_message_is_the_same_in_whatever_pieces_it_comes(seed: int) -> None:
    rng = random.Random(seed)
    message = rng.randbytes(rng.choice((0, 1, 4, 1024, MOST - 1, MOST)))
    came, parts = framed(message), list[bytes]()
    while came:
        size = rng.choice((0, 1, 3, 1023, 1024, 4000))
        parts.append(came[:size])
        came = came[size:]
    ends_alone = rng.random() < 0.5
    whole = body()
    for part in parts[:-1]:
        assert whole.received(part, False) is None
    if ends_alone:
        assert whole.received(parts[-1], False) is None
        assert whole.received(b"", True) == (False, message)
    else:
        assert whole.received(parts[-1], True) == (False, message)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((b"",), "request: got 0 bytes, expected one message"),
        ((b"\0\0", b"\0"), "request: got 3 bytes, expected one message"),
        ((PREFIX.pack(0, 5) + b"abc", b"d"), "request: got 4 bytes, expected a message of 5"),
        ((PREFIX.pack(0, 2) + b"abc",), "request: got 3 bytes, expected a message of 2"),
        ((PREFIX.pack(0, 2) + b"ab", b"c"), "request: got 3 bytes, expected a message of 2"),
        ((PREFIX.pack(2, 2) + b"ab",), "request: got the compressed-flag 2, expected 0 or 1"),
    ],
)
def test_what_is_no_message_is_told_what_it_is(parts: tuple[bytes, ...], said: str) -> None:
    wrong = body()
    for part in parts[:-1]:
        assert wrong.received(part, False) is None
    with pytest.raises(Ended) as error:
        wrong.received(parts[-1], True)
    assert error.value.answer.message == said


def test_one_that_is_too_large_is_rejected_by_what_it_says() -> None:
    with pytest.raises(Ended, match="10000"):
        body().received(PREFIX.pack(0, MOST + 1), False)
