"""What is done to a server while it is under load, one thing after another; each says what it should have seen."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.processes.served import ServedProcess
from benchmarks.serving.load_client import turn
from benchmarks.soak.ledger import Asker, Excuse, Ledger, Question
from latentserve import bundle
from latentserve.client import Client
from latentserve.errors import LatentserveError, ModelNotFound
from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1 import embedding_pb2_grpc as grpc_stubs

PATIENCE_SECONDS = 20.0
STOPPED_SECONDS = 1.0
CANCELLED_CALLS = 100
SLOW_SECONDS = 2.0
SLOW_CALLS = 50


class Unexpected(Exception):
    """A fault was not met as it should have been."""


@dataclass
class Scene:
    """What faults are done to.

    Attributes:
        server: the process.
        model: folder of the model; its versions are the subfolders.
        settings: file that the server reads again on SIGHUP.
        ledger: where what is explained is written.
        asked: questions, the first and second of which are asked of version 1.
        number: of the last version made.
        window: `batch_window_seconds` in force.
    """

    server: ServedProcess
    model: Path
    settings: Path
    ledger: Ledger
    asked: list[Question]
    number: int = 1
    window: float = 0.0
    there: list[int] = field(default_factory=list)

    def versions(self) -> tuple[set[int], set[int]]:
        """Those served and those rejected."""
        with Client(self.server.target, timeout_seconds=PATIENCE_SECONDS) as client:
            answer = client.list_models()
        return {model.version for model in answer.models}, {one.version for one in answer.rejected}

    def hang_up(self) -> None:
        """SIGHUP."""
        os.kill(self.server.pid, signal.SIGHUP)

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Waits for it; raises Unexpected if it does not come."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise Unexpected(f"after {PATIENCE_SECONDS:g} s not {what}")
            time.sleep(0.1)

    def copied(self) -> Path:
        """A new version: version 1 with another number, beside where it will be."""
        self.number += 1
        made = self.model.parent / f".{self.number}" / str(self.number)
        shutil.copytree(self.model / "1", made)
        manifest = json.loads((made / bundle.MANIFEST).read_text())
        (made / bundle.MANIFEST).write_text(json.dumps(manifest | {"version": self.number}))
        return made

    def put(self, made: Path) -> None:
        """Where the server finds it."""
        made.rename(self.model / made.name)
        made.parent.rmdir()


def reloaded_settings(scene: Scene) -> None:
    """SIGHUP with another batch window."""
    scene.window = 0.0 if scene.window else 0.002
    scene.settings.write_text(f"batch_window_seconds = {scene.window}\n")
    scene.hang_up()
    scene.until("reloaded", lambda: scene.server.metrics()["latentserve_config_last_reload_successful"] == 1.0)


def broken_settings(scene: Scene) -> None:
    """SIGHUP with a file that is no TOML: nothing changes, and a metric says so."""
    scene.settings.write_text("batch_window_seconds = ")
    scene.hang_up()
    scene.until("rejected", lambda: scene.server.metrics()["latentserve_config_last_reload_successful"] == 0.0)
    scene.settings.write_text(f"batch_window_seconds = {scene.window}\n")


def good_version(scene: Scene) -> None:
    """A new version beside the old ones; the newest answers whoever names none."""
    made = scene.copied()
    for question in scene.asked:
        question.answers |= {_of_version(answer, question.method, scene.number) for answer in set(question.answers)}
    scene.put(made)
    scene.there.append(scene.number)
    scene.hang_up()
    scene.until(f"version {scene.number}", lambda: scene.number in scene.versions()[0])


def broken_version(scene: Scene) -> None:
    """A new version with a damaged graph: rejected by name, the others serve."""
    made = scene.copied()
    graph = next(made.glob("encoder*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-100])
    scene.put(made)
    scene.hang_up()
    scene.until(f"version {scene.number} rejected", lambda: scene.number in scene.versions()[1])
    shutil.rmtree(scene.model / str(scene.number))
    scene.hang_up()
    scene.until("forgotten", lambda: not scene.versions()[1])


def removed_version(scene: Scene) -> None:
    """A version that goes: whoever names it is told so, nobody else notices."""
    if not scene.there:
        good_version(scene)
    version = scene.there.pop(0)
    shutil.rmtree(scene.model / str(version))
    scene.hang_up()
    scene.until(f"version {version} unloaded", lambda: version not in scene.versions()[0])
    with Client(scene.server.target, timeout_seconds=PATIENCE_SECONDS) as client:
        try:
            client.get_model(version=version)
        except ModelNotFound:
            return
        except LatentserveError as error:
            raise Unexpected(f"version {version}, which is unloaded: {type(error).__name__}") from error
    raise Unexpected(f"version {version}, which is unloaded, was found")


def cancelled_clients(scene: Scene) -> None:
    """Calls that are cancelled at once or soon after."""
    message = scene.asked[1].message[5:]
    with grpc.insecure_channel(scene.server.target) as channel:
        stub = grpc_stubs.EmbeddingServiceStub(channel)  # type: ignore[no-untyped-call]
        request = pb.EmbedRequest.FromString(message)
        for number in range(CANCELLED_CALLS):
            call = stub.Embed.future(request, timeout=PATIENCE_SECONDS)
            time.sleep(0.001 * (number % 10))
            call.cancel()


def hung_up_clients(scene: Scene) -> None:
    """Connections that end with calls under way: one politely, one by a reset."""
    for politely in (True, False):
        asker = Asker(scene.server.target, scene.asked[1], Ledger())
        for _ in range(SLOW_CALLS):
            asker.ask(time.monotonic())
        if not politely:
            asker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asker.socket.close()


def slow_reader(scene: Scene) -> None:
    """A client who lets his answers lie for a while."""
    asker = Asker(scene.server.target, scene.asked[1], scene.ledger)
    asker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(SLOW_CALLS):
        asker.ask(time.monotonic())
    time.sleep(SLOW_SECONDS)
    _finish(asker)


def slow_sender(scene: Scene) -> None:
    """A client whose request takes a while to come."""
    asker = SlowAsker(scene.server.target, scene.asked[1], scene.ledger)
    asker.ask(time.monotonic())
    _finish(asker)


def full_disk(scene: Scene) -> None:
    """The file of the log takes no more. It is all that a server on a CPU writes."""
    _, hard = resource.prlimit(scene.server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(scene.server.pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        for _ in range(5):
            scene.hang_up()  # each writes several lines
            time.sleep(0.2)
        scene.versions()
    finally:
        resource.prlimit(scene.server.pid, resource.RLIMIT_FSIZE, (hard, hard))


def stopped(scene: Scene) -> None:
    """SIGSTOP, and a second later SIGCONT: a machine that was suspended, or swapped."""
    start = time.monotonic()
    os.kill(scene.server.pid, signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    os.kill(scene.server.pid, signal.SIGCONT)
    why = "its deadline passed while the server was stopped"
    scene.ledger.excuses.append(Excuse(why, start, time.monotonic(), frozenset({"4"})))
    scene.versions()


FAULTS: dict[str, Callable[[Scene], None]] = {
    "settings read again": reloaded_settings,
    "a good version": good_version,
    "a broken version": broken_version,
    "clients who cancel": cancelled_clients,
    "clients who hang up": hung_up_clients,
    "a slow reader": slow_reader,
    "a slow sender": slow_sender,
    "stopped for a second": stopped,
    "a full disk": full_disk,
    "broken settings": broken_settings,
    "a version removed": removed_version,
}


class SlowAsker(Asker):
    """Sends its frames a few bytes at a time."""

    def flush(self) -> None:
        """Writes everything, slowly."""
        self._make_frames()
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        step = max(1, len(data) // 20)
        for start in range(0, len(data), step):
            self.socket.setblocking(True)
            self.socket.sendall(data[start : start + step])
            self.socket.setblocking(False)
            time.sleep(SLOW_SECONDS / 20)


def _finish(asker: Asker) -> None:
    """Waits for the answers, which must be right."""
    end = time.monotonic() + PATIENCE_SECONDS
    try:
        while asker.busy and time.monotonic() < end:
            turn([asker], 0.5)
    except OSError as error:
        raise Unexpected(f"connection lost: {error}") from error
    finally:
        asker.give_up()


def _of_version(answer: bytes, method: str, version: int) -> bytes:
    """The same answer, from another version of the model that is its copy."""
    response = getattr(pb, f"{method}Response").FromString(answer[5:])
    response.model.version = version
    body: bytes = response.SerializeToString()
    return bytes([0]) + len(body).to_bytes(4, "big") + body
