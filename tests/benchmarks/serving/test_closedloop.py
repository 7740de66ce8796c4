"""The closed loop against the real server: bodies larger than its windows, several processes, every call counted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from benchmarks.serving.closedloop import closed_loop
from benchmarks.serving.openloop import open_loop
from service.transport.http2.limits import Limits
from tests.benchmarks.serving.test_openloop import HEADERS, request


@pytest.mark.parametrize(("clients", "processes"), [(1, 1), (5, 2)])
def test_every_answer_is_counted_by_both_sides(
    server: ServedProcess, digits: NDArray[np.uint8], clients: int, processes: int
) -> None:
    url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
    before = server.metrics()
    tally = closed_loop(url, request(digits[:20]), HEADERS, clients, 0.5, processes)
    after = server.metrics()
    counted = {name: value - before.get(name, 0.0) for name, value in after.items() if "requests_total{" in name}
    assert tally.codes == {"0": tally.sent}
    assert sum(counted.values()) == tally.sent >= clients
    assert 0 < tally.p50_ms <= tally.p99_ms


def test_bodies_larger_than_the_windows_of_a_stream_and_a_connection_arrive_whole(server: ServedProcess) -> None:
    """What comes whole is told that its shape is wrong: the message is longer than what windows hold at once."""
    url = f"http://{server.target}/latentserve.v1.EmbeddingService/Embed"
    images = np.zeros((3 * Limits().stream_window_bytes // 900, 30, 30, 1), np.uint8)
    tally = closed_loop(url, request(images), HEADERS, 3, 0.3)
    assert set(tally.codes) == {"3"}
    together = open_loop(url, request(images), HEADERS, rate=30, seconds=1.0, processes=2)
    assert set(together.codes) == {"3"}
    assert together.sent == 30
