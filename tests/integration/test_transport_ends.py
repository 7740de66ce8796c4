"""A server whose transport has ended must not say that it is ready, nor stay."""

from __future__ import annotations

import socket
from pathlib import Path

from benchmarks.processes.served import ServedProcess
from tests.service.transport.http2_peer import HEADERS, PREFACE, SETTINGS, block, raw


def test_a_server_whose_grpcio_has_ended_exits_with_an_error(repository: Path, tmp_path: Path) -> None:
    with ServedProcess(repository, tmp_path / "log", ("--transport", "grpcio")) as process:
        host, port = process.target.split(":")
        with socket.create_connection((host, int(port))) as peer:
            post = block([(":method", "POST"), (":scheme", "http"), (":authority", "x")]) + b"\x04\x02/\xff"
            rest = block([("content-type", "application/grpc"), ("te", "trailers")])
            peer.sendall(PREFACE + raw(SETTINGS, 0, 0) + raw(HEADERS, 5, 1, post + rest))
            process.wait()
        assert process.stop() == 1
    assert "transport: grpcio takes no more calls" in (tmp_path / "log").read_text()
