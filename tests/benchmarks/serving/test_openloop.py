"""The open loop against the real server: every call answered, counted, and timed from when it was meant to leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from benchmarks.serving.openloop import open_loop
from benchmarks.serving.overload import name_of
from benchmarks.serving.peers.triton import grpc_message
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb

HEADERS = ("content-type: application/grpc", "te: trailers")


def request(images: NDArray[Any]) -> bytes:
    return grpc_message(pb.EmbedRequest(input=pb.Input(tensor=to_tensor(images))).SerializeToString())


def test_every_call_is_answered_and_counted(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
    before = server.metrics()
    tally = open_loop(url, request(digits[:100]), HEADERS, rate=200, seconds=1.0)
    after = server.metrics()
    assert (tally.sent, tally.codes) == (200, {"0": 200})
    assert 0 < tally.p50_ms <= tally.p99_ms
    counted = {name: value - before.get(name, 0.0) for name, value in after.items() if "requests_total{" in name}
    assert sum(counted.values()) == 200


@pytest.mark.parametrize(
    ("images", "header", "expected"),
    [((1, 9, 9, 1), "grpc-timeout: 5S", "INVALID_ARGUMENT"), ((1, 8, 8, 1), "grpc-timeout: 1n", "DEADLINE_EXCEEDED")],
)
def test_what_is_refused_is_counted_by_its_code(
    server: ServedProcess, images: tuple[int, ...], header: str, expected: str
) -> None:
    url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
    tally = open_loop(url, request(np.zeros(images, np.uint8)), (*HEADERS, header), rate=100, seconds=0.2)
    names = {name_of(code) for code in tally.codes}
    assert expected in names
    assert names <= {expected, "OK"}  # grpcio rounds a deadline up, and may answer within it
