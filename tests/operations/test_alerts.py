"""A real Prometheus on the real service: rules load, dashboards have data, and what goes wrong raises its alert.

Run by `make ops-test`; time passes sixty times as fast for the rules (`benchmarks.processes.prometheus`).
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.child import free_port
from benchmarks.processes.prometheus import PrometheusProcess, as_asked, draw
from benchmarks.processes.served import ServedProcess
from benchmarks.serving.openloop import open_loop
from deploy.panels import DASHBOARDS
from latentserve.client import Client
from latentserve.errors import LatentserveError
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from tests.waiting import eventually

pytestmark = [
    pytest.mark.ops,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus here: apt-get install prometheus"),
]
HEADERS = ("content-type: application/grpc", "te: trailers")
PICTURES = os.environ.get("OPS_PICTURES")
"""A folder for the drawn dashboards, if one is wanted."""


@contextmanager
def typical_traffic(process: ServedProcess, digits: NDArray[np.uint8]) -> Iterator[None]:
    """Calls every method of the service with in-distribution rows, again and again."""
    stopping = threading.Event()

    def ask() -> None:
        rng = np.random.default_rng(0)
        with Client(process.target, timeout_seconds=5) as client:
            while not stopping.is_set():
                rows = digits[rng.integers(0, len(digits), 3)]
                try:
                    client.embed(rows)
                    client.score(rows)
                    client.decode(client.analyze(rows, ["latent"]).latents)
                    client.get_model()
                except LatentserveError:
                    continue
                time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def targets(*processes: ServedProcess) -> tuple[str, ...]:
    return tuple(process.metrics_url.removeprefix("http://").removesuffix("/metrics") for process in processes)


@contextmanager
def watched(tmp_path: Path, *processes: ServedProcess) -> Iterator[PrometheusProcess]:
    with PrometheusProcess(targets(*processes), tmp_path) as prometheus:
        eventually(lambda: prometheus.query("sum(up)") == [len(processes)], 20, lambda: "never scraped")
        eventually(lambda: not prometheus.firing(), 20, prometheus.firing)
        yield prometheus


def drawn(prometheus: PrometheusProcess, name: str, seconds: float) -> None:
    if PICTURES:
        draw(prometheus, *DASHBOARDS[name], seconds, Path(PICTURES) / f"dashboard-{name}.png")


def test_rules_load_and_every_panel_has_data(repository: Path, tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    with (
        ServedProcess(repository, tmp_path / "log") as process,
        watched(tmp_path, process) as prometheus,
        typical_traffic(process, digits),
    ):
        time.sleep(30)
        groups = prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) > 30
        assert {rule["health"] for rule in rules} == {"ok"}
        for name, (_, panels) in DASHBOARDS.items():
            for panel in panels:
                for legend, query in panel.lines.items():
                    values = prometheus.query(as_asked(query))
                    assert np.isfinite(values).any(), f"{name}, {panel.title}, {legend}: {query} gives {values}"
        assert prometheus.firing() == set()


def test_an_overload_raises_its_alerts_and_clears(repository: Path, tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    """More rows than the engine runs: they wait, and clients are late or shed."""
    body = pb.EmbedRequest(input=pb.Input(tensor=to_tensor(np.repeat(digits, 2, axis=0)[:500]))).SerializeToString()
    framed = bytes([0]) + len(body).to_bytes(4, "big") + body
    slow = ("--max-batch-rows", "2", "--intra-op-threads", "1", "--max-queue-rows", "20000")
    with ServedProcess(repository, tmp_path / "log", slow) as process, watched(tmp_path, process) as prometheus:
        url = f"http://{process.target}/latentserve.v1.EmbeddingService/Embed"
        seen: set[str] = set()
        load = threading.Thread(target=open_loop, args=(url, framed, HEADERS, 60.0, 20.0))
        load.start()
        while load.is_alive():
            seen |= prometheus.firing("page")
            time.sleep(0.5)
        load.join()
        assert seen == {"LatentserveQueueSaturated", "LatentserveErrorBudgetBurn", "LatentserveLatencyBudgetBurn"}
        with typical_traffic(process, digits):
            eventually(lambda: not prometheus.firing("page"), 90, lambda: prometheus.firing("page"))
            drawn(prometheus, "service", 90)
            drawn(prometheus, "capacity", 90)


def test_a_killed_replica_raises_its_alert_and_clears(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    ports = free_port(), free_port()
    with (
        ServedProcess(repository, tmp_path / "log") as process,
        ServedProcess(repository, tmp_path / "other", (), ports) as other,
        watched(tmp_path, process, other) as prometheus,
        typical_traffic(process, digits),
    ):
        os.kill(other.pid, signal.SIGKILL)
        eventually(lambda: prometheus.firing() == {"LatentserveDown"}, 20, prometheus.firing)
        time.sleep(5)
        assert prometheus.firing() == {"LatentserveDown"}
        with ServedProcess(repository, tmp_path / "again", (), ports):
            eventually(lambda: not prometheus.firing(), 20, prometheus.firing)


def test_shifted_inputs_raise_their_alert_and_a_restart_clears_it(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    ports = free_port(), free_port()
    noise = np.random.default_rng(0).integers(0, 256, (300, *digits.shape[1:]), dtype=np.uint8)
    with ServedProcess(repository, tmp_path / "log", (), ports) as process, watched(tmp_path, process) as prometheus:
        with typical_traffic(process, digits), Client(process.target) as client:
            time.sleep(15)
            assert prometheus.firing() == set()
            for some in np.array_split(noise, 30):
                client.score(some)
                time.sleep(0.2)
        eventually(lambda: bool(prometheus.firing()), 20, prometheus.firing)
        time.sleep(10)
        assert prometheus.firing() == {"LatentserveCalibrationBroken"}
        drawn(prometheus, "models", 40)
        process.stop()
        with ServedProcess(repository, tmp_path / "again", (), ports) as again, typical_traffic(again, digits):
            eventually(lambda: not prometheus.firing(), 30, prometheus.firing)
