"""Where a closed loop's time goes: what is read of a server, and how the table reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from benchmarks.serving.__main__ import Target
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.trace import Traced, seen, table
from latentserve.client import Client


def test_batches_and_cpu_of_a_server_are_read(server: ServedProcess, digits: NDArray[np.uint8]) -> None:
    traced = Traced(Target(Peer("ours", Path(), (), "", {}, ()), server.pid), server.metrics_url)
    before = seen(traced)
    with Client(server.target) as client:
        for _ in range(3):
            client.embed(digits[:20])
    after = seen(traced)
    assert after["latentserve_batch_rows_sum"] - before["latentserve_batch_rows_sum"] == 60
    assert after["latentserve_batch_rows_count"] - before["latentserve_batch_rows_count"] == 3
    assert after["latentserve_instance_busy_seconds_total"] > before["latentserve_instance_busy_seconds_total"]
    assert 0 < before["loop"] <= after["loop"]


def test_a_peer_has_no_engine_that_we_know() -> None:
    ours = {"images_per_second": 7935.4, "p99_ms": 16.52, "loop_us": 60, "others_us": 103, "busy": 0.88}
    theirs = {"images_per_second": 10407.0, "p99_ms": 13.9, "others_us": 173, "cores": 1.8}
    lines = table({"ours": ours | {"rows_a_batch": 31.94, "cores": 1.29}, "theirs": theirs}).splitlines()
    assert lines[2] == "| ours | 7935 | 16.5 | 60 | 103 | 88% | 31.9 | 1.29 |"
    assert lines[3] == "| theirs | 10407 | 13.9 |  | 173 |  |  | 1.80 |"
