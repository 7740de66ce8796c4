"""What gRPC says of a server that it cannot reach, as a user is told."""

from __future__ import annotations

import pytest

from latentserve.rpc import _in_words

ALL = "connections to all backends failing; last error: "


@pytest.mark.parametrize(
    ("details", "told"),
    [
        (
            f"{ALL}UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused",
            "nobody listens at 127.0.0.1:1 (Connection refused)",
        ),
        (
            f"{ALL}UNKNOWN: ipv6:%5B::1%5D:1: Failed to connect to remote host: Connection refused",
            "nobody listens at [::1]:1 (Connection refused)",
        ),
        (
            f"{ALL}UNAVAILABLE: ipv4:127.0.0.1:50051: Ssl handshake failed: SSL_ERROR_SSL",
            "127.0.0.1:50051: Ssl handshake failed: SSL_ERROR_SSL",
        ),
        ("the server is draining", "the server is draining"),
    ],
)
def test_the_address_is_named(details: str, told: str) -> None:
    assert _in_words(details) == told


@pytest.mark.parametrize(
    "why", ["Failed parsing HTTP/2 (Expected SETTINGS frame as the first frame, got frame type 79)", "Socket closed"]
)
def test_a_port_that_speaks_something_else_is_said_so(why: str) -> None:
    assert "127.0.0.1:9464 does not speak gRPC in plaintext" in _in_words(
        f"{ALL}UNAVAILABLE: ipv4:127.0.0.1:9464: {why}"
    )
