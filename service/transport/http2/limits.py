"""Every limit of our HTTP/2, in one place. Operators set a few of them (`service.config`); tests set any."""

from __future__ import annotations

from dataclasses import dataclass

SPARE_FILES = 48
"""File descriptors that connections leave: models, logs, the metrics page and who reads it."""


@dataclass(frozen=True)
class Limits:
    """What one peer, and all of them together, may ask of us.

    Attributes:
        max_connections: at once; with another the one that has been idle longest is closed.
        receive_bytes: of requests that came and are not answered yet, of all connections (`budget`).
        send_bytes: of answers that their clients leave no room for, of all connections.
        streams: open at once on a connection (SETTINGS_MAX_CONCURRENT_STREAMS).
        frame_bytes: payload of a frame (SETTINGS_MAX_FRAME_SIZE). The least that may be: frames that are not whole are
            in no budget.
        stream_window_bytes: of a body that may come before it is read.
        connection_window_bytes: of all bodies of a connection.
        header_list_bytes: of a request's headers as RFC 9113, 6.5.2 counts them; more of them fail their stream.
        header_block_bytes: beyond these nothing is decoded, and the connection ends.
        continuations: frames of one header block; at 16 KiB a frame, twice `header_block_bytes`.
        write_buffer_bytes: that wait for TCP; above, the peer is not read from until it reads.
        turn_work: what a connection may do before the others get their turn; a frame is 1, a request 8.
        calm_frames: that bring nothing (PING, SETTINGS, empty DATA...), above what `calm_frames_per_second` lets go.
        calm_frames_per_second: of those, forgotten.
        resets: streams a client may cancel above those it lets finish (CVE-2023-44487, rapid reset).
        resets_per_second: of those, forgotten.
        closed_streams: that are remembered, so that their late frames are told from wrong ones.
        preface_seconds: from the connection to its first SETTINGS.
        header_seconds: from the first byte of a header block, or of a frame, to its last.
        body_seconds: in which `body_bytes` of an unfinished message must come.
        body_bytes: 1 KiB/s: a modem of 1985 sends no embeddings.
        idle_seconds: without a stream, then the connection is closed.
        keepalive_seconds: without a byte from the peer, then it is asked whether it is there.
        keepalive_timeout_seconds: it has to answer, or the connection ends.
        unread_seconds: that a peer may leave what we write where it is.
        drain_seconds: between "no more streams, please" and refusing them: a round trip (RFC 9113, 6.8).
        linger_seconds: that a client has to close, and as long again once it was told that nothing more will come.
            Closed at once, frames of it that come too late would make TCP reset the connection, and the last answer
            could be lost.
        look_seconds: how often the times above are looked at.
        compress_answers: of at least `compress_bytes`, for clients that take gzip.
        compress_bytes: below, gzip saves less than its headers cost.
    """

    max_connections: int = 4096
    receive_bytes: int = 512 * 2**20
    send_bytes: int = 128 * 2**20
    streams: int = 1000
    frame_bytes: int = 2**14
    stream_window_bytes: int = 2**20
    connection_window_bytes: int = 2**24
    header_list_bytes: int = 16 * 1024
    header_block_bytes: int = 256 * 1024
    continuations: int = 32
    write_buffer_bytes: int = 256 * 1024
    turn_work: int = 512
    calm_frames: int = 5000
    calm_frames_per_second: float = 200.0
    resets: int = 2000
    resets_per_second: float = 100.0
    closed_streams: int = 1000
    preface_seconds: float = 10.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    body_bytes: int = 30 * 1024
    idle_seconds: float = 1800.0
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 20.0
    unread_seconds: float = 60.0
    drain_seconds: float = 0.5
    linger_seconds: float = 1.0
    look_seconds: float = 1.0
    compress_answers: bool = False
    compress_bytes: int = 1024


def most_connections(wanted: int) -> int:
    """As many as wanted, but no more than there are file descriptors for."""
    try:
        import resource
    except ImportError:  # not on Windows
        return wanted
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if most == resource.RLIM_INFINITY else max(1, min(wanted, most - SPARE_FILES))
