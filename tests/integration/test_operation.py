"""The server as an operator meets it: signals, settings read again, counters that add up."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from benchmarks.serving.openloop import open_loop
from latentserve.client import Client
from latentserve.errors import InvalidInput, ModelNotFound, Unavailable
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1 import embedding_pb2_grpc as pb_grpc
from tests.waiting import eventually

HEADERS = ("content-type: application/grpc", "te: trailers")
PATH = "latentserve.v1.EmbeddingService/Embed"
MONITORED = 'latentserve_monitor_rows{model="digits-vae",version="1"}'
DECIDED = 'latentserve_decided_rows_total{flagged="false",model="digits-vae",version="1"}'


def health(channel: grpc.Channel) -> int:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return int(answer.status)


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
def test_a_lame_duck_says_so_and_still_answers(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    arguments = ("--lame-duck-seconds", "1.5", "--transport", transport)
    with ServedProcess(repository, tmp_path / "log", arguments) as process:
        with grpc.insecure_channel(process.target) as channel, Client(process.target) as client:
            assert health(channel) == health_pb2.HealthCheckResponse.SERVING
            client.embed(digits[:1])
            told = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            eventually(lambda: health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING)
            while time.monotonic() < told + 1.2:
                assert len(client.embed(digits[:1])) == 1
            assert process.metrics()["latentserve_ready"] == 0
        assert process.stop() == 0
        assert time.monotonic() - told >= 1.5
    with Client(process.target) as client, pytest.raises(Unavailable):
        client.embed(digits[:1])


def test_a_second_signal_cuts_the_lame_duck_short(repository: Path, tmp_path: Path) -> None:
    with ServedProcess(repository, tmp_path / "log", ("--lame-duck-seconds", "60")) as process:
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: "lame duck for 60 s" in (tmp_path / "log").read_text())
        started = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - started < 20


def test_settings_are_read_again_on_sighup(repository: Path, tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    file, log = tmp_path / "settings.toml", tmp_path / "log"
    file.write_text("max_queue_rows = 100\n")

    def reload(text: str, said: str) -> float:
        file.write_text(text)
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: said in log.read_text())
        return process.metrics()["latentserve_config_last_reload_successful"]

    with ServedProcess(repository, log, ("--settings", str(file))) as process, Client(process.target) as client:
        client.embed(digits[:50])
        assert reload("max_queue_rows = 10\n", "settings reloaded: {'max_queue_rows': 10}") == 1
        with pytest.raises(Exception, match="of 10 rows"):
            client.embed(digits[:50])
        assert reload("max_queue_rows = 0\n", "settings not reloaded: max_queue_rows: got 0") == 0
        assert reload("max_queue_rows = ", "expected a TOML file") == 0
        client.embed(digits[:10])
        assert reload("max_queue_rows = 100\nmax_batch_rows = 8\n", "need a restart: ['max_batch_rows']") == 0
        client.embed(digits[:50])
        assert reload("max_queue_rows = 100\n", "settings reloaded: none changed") == 1


def counted(process: ServedProcess, method: str) -> Counter[str]:
    """Calls of a method by code, over models."""
    found: Counter[str] = Counter()
    for name, value in process.metrics().items():
        if name.startswith("latentserve_requests_total{") and f'method="{method}"' in name:
            found[name.split('code="')[1].split('"')[0]] += int(value)
    return found


@pytest.mark.slow
def test_the_counters_are_the_callers_own_counts(repository: Path, tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    """Successes, refusals, expiries and cancels: what the metrics say is what callers got, call by call."""
    arguments = ("--max-queue-rows", "64", "--batch-window-seconds", "1")  # those to be cancelled wait
    with ServedProcess(repository, tmp_path / "log", arguments) as process, Client(process.target) as client:
        body = pb.EmbedRequest(input=pb.Input(tensor=to_tensor(digits[:4]))).SerializeToString()
        framed = bytes([0]) + len(body).to_bytes(4, "big") + body
        url, hurried = f"http://{process.target}/{PATH}", (*HEADERS, "grpc-timeout: 200u")  # none could be met
        tallies = [open_loop(url, framed, headers, 150, 3.0) for headers in (HEADERS, hurried)]
        theirs = sum((Counter(tally.codes) for tally in tallies), Counter[str]())
        assert set(theirs) == {"0", "4", "8"}  # every kind was there, and every call was answered

        for _ in range(7):
            with pytest.raises(ModelNotFound):
                client.embed(digits[:1], model="moon")
        for _ in range(5):
            with pytest.raises(InvalidInput):
                client.embed(np.zeros((1, 3, 3, 1), np.uint8))
        num_cancelled, num_answered = cancel_some(process, digits)

        def ours() -> Counter[str]:
            return counted(process, "Embed")

        eventually(lambda: ours()["CANCELLED"] == num_cancelled, what=lambda: (ours(), num_cancelled, theirs))
        assert ours() == {
            "OK": theirs["0"] + num_answered,
            "DEADLINE_EXCEEDED": theirs["4"],
            "RESOURCE_EXHAUSTED": theirs["8"],
            "NOT_FOUND": 7,
            "INVALID_ARGUMENT": 5,
            "CANCELLED": num_cancelled,
        }
        metrics = process.metrics()
        assert metrics["latentserve_requests_in_flight"] == 0
        queue = 'model="digits-vae",queue="input"'

        def dropped(reason: str) -> float:
            return metrics[f'latentserve_dropped_rows_total{{{queue},reason="{reason}",version="1"}}']

        num_run = metrics[f'latentserve_batch_rows_sum{{{queue},version="1"}}']
        assert dropped("full") == 4 * theirs["8"]
        assert dropped("cancelled") == num_cancelled
        assert dropped("failed") == 0
        assert dropped("expired") > 0
        # A late answer was run, and is late; a call may expire before its rows are known, too.
        assert 4 * theirs["0"] <= num_run + dropped("expired") <= 4 * (theirs["0"] + theirs["4"]) + num_answered


def cancel_some(process: ServedProcess, digits: NDArray[np.uint8]) -> tuple[int, int]:
    """Cancels calls that wait for a batch; how many were, and how many were answered first (on a slow machine)."""
    request = pb.EmbedRequest(input=pb.Input(tensor=to_tensor(digits[:1])))
    with grpc.insecure_channel(process.target) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        grpc.channel_ready_future(channel).result(10)
        calls = [stub.Embed.future(request) for _ in range(9)]
        eventually(lambda: process.metrics()["latentserve_requests_in_flight"] == len(calls))
        for call in calls:
            threading.Thread(target=call.cancel).start()
        eventually(lambda: all(call.done() for call in calls))
    num_cancelled = sum(call.cancelled() for call in calls)
    assert num_cancelled > 0
    return num_cancelled, len(calls) - num_cancelled


class Asking(threading.Thread):
    """A caller that never stops.

    Attributes:
        versions: that answered.
        failures: of calls.
    """

    def __init__(self, target: str, digits: NDArray[np.uint8]) -> None:
        super().__init__()
        self._target = target
        self._request = pb.ScoreRequest(input=pb.Input(tensor=to_tensor(digits[:3])))
        self._over = threading.Event()
        self.versions: Counter[int] = Counter()
        self.failures: list[grpc.RpcError] = []

    def run(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub = pb_grpc.EmbeddingServiceStub(channel)
            while not self._over.is_set():
                try:
                    self.versions[stub.Score(self._request, timeout=20).model.version] += 1
                except grpc.RpcError as error:
                    self.failures.append(error)

    def __enter__(self) -> Asking:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
def test_models_come_and_go_while_calls_are_answered(
    versions: Path, tmp_path: Path, digits: NDArray[np.uint8], transport: str
) -> None:
    """SIGHUP: a broken bundle is refused, a new version takes over, an old one goes; no call fails meanwhile."""
    models, log = tmp_path / "models", tmp_path / "log"
    first, second = models / "digits-vae" / "1", models / "digits-vae" / "2"
    shutil.copytree(versions / "1", first)

    def reload(said: str) -> dict[str, float]:
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: said in log.read_text(), 30, log.read_text)
        return process.metrics()

    with (
        ServedProcess(models, log, ("--transport", transport)) as process,
        Client(process.target) as client,
        Asking(process.target, digits) as asking,
    ):
        eventually(lambda: asking.versions[1] > 10)
        shutil.copytree(versions / "1", second)  # another version's bytes
        assert reload("models reloaded: 0 loaded, 0 unloaded, 1 rejected")["latentserve_rejected_bundles"] == 1
        shutil.rmtree(second)
        shutil.copytree(versions / "2", second)
        assert reload("models reloaded: 1 loaded, 0 unloaded, 0 rejected")["latentserve_rejected_bundles"] == 0
        eventually(lambda: asking.versions[2] > 10)
        assert [model.version for model in client.list_models().models] == [2, 1]
        client.score(digits[:3], version=1)  # while it is there
        client.score(digits[:3], version=2)
        assert process.metrics()[DECIDED] > 0
        first.rename(tmp_path / "put-away")
        reload("models reloaded: 0 loaded, 1 unloaded, 0 rejected")
        with pytest.raises(ModelNotFound, match="got 1 of 'digits-vae', expected one of \\[2\\]"):
            client.score(digits[:3], version=1)
        asked = asking.versions[2]
        eventually(lambda: process.metrics().keys().isdisjoint({MONITORED, DECIDED}), 20)  # nothing of it is left
        assert process.metrics()[DECIDED.replace('"1"', '"2"')] > 0  # what was counted of the others stays
        second.rename(tmp_path / "put-away-too")
        assert reload("models not reloaded: models: got no bundle")["latentserve_config_last_reload_successful"] == 0
        eventually(lambda: asking.versions[2] > asked + 10)  # what is there serves on
    assert asking.failures == []


def test_a_server_that_lets_a_model_go_can_be_told_to_stop(versions: Path, tmp_path: Path) -> None:
    models, log = tmp_path / "models", tmp_path / "log"
    shutil.copytree(versions, models / "digits-vae")
    with ServedProcess(models, log) as process:
        (models / "digits-vae" / "1").rename(tmp_path / "put-away")
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: "1 unloaded" in log.read_text())
        assert process.stop() == 0
