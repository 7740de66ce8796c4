"""The load of a soak: questions whose answers are known, asked at a fixed rate whatever comes back."""

from __future__ import annotations

import io
import math
import socket
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving.load_client import turn
from benchmarks.soak.ledger import Asker, Ledger, Question, framed
from latentserve import bundle
from latentserve.tensors import from_tensor, to_tensor
from latentserve.v1 import embedding_pb2 as pb
from latentserve.v1 import embedding_pb2_grpc as grpc_stubs

CONNECTIONS_EACH = 2
LAST_ANSWERS_SECONDS = 30.0
TOLERANCE = 1e-3
"""Between an answer and the bundle's golden rows, in units of the largest: export promises more."""


def questions(target: str, folder: Path) -> list[Question]:
    """What is asked of version 1, and of the newest: answered once in quiet, and compared with the bundle.

    Raises:
        RuntimeError: an answer is not what the trained model outputs.
    """
    golden = bundle.load_arrays(folder / bundle.GOLDEN)
    rows = np.ascontiguousarray(golden["input"])
    pinned = pb.ModelSelector(name=folder.parent.name, version=1)
    named = pb.ModelSelector(name=folder.parent.name)

    def tensor(num_rows: int) -> pb.Input:
        return pb.Input(tensor=to_tensor(rows[:num_rows]))

    requests = {
        "embed 1 row": ("Embed", pb.EmbedRequest(model=pinned, input=tensor(1)), "20S"),
        "embed 8 rows": ("Embed", pb.EmbedRequest(model=pinned, input=tensor(8)), "20S"),
        "embed, newest": ("Embed", pb.EmbedRequest(model=named, input=tensor(2)), "20S"),
        "score 1 row": ("Score", pb.ScoreRequest(model=pinned, input=tensor(1)), "20S"),
        "embed PNG": ("Embed", pb.EmbedRequest(model=pinned, input=pb.Input(encoded=_files(rows))), "20S"),
        "embed in 20 ms": ("Embed", pb.EmbedRequest(model=pinned, input=tensor(1)), "20m"),
    }
    made = []
    with grpc.insecure_channel(target) as channel:
        stub: Any = grpc_stubs.EmbeddingServiceStub(channel)  # type: ignore[no-untyped-call]
        for name, (method, request, timeout) in requests.items():
            response = getattr(stub, method)(request, timeout=20)
            _check(name, response, golden)
            question = Question(name, method, framed(request), {framed(response)}, timeout)
            if timeout != "20S":
                question.excuses["4"] = "its deadline was 20 ms"
            made.append(question)
    return made


def _files(rows: NDArray[np.uint8]) -> pb.EncodedItems:
    """The first row as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(rows[0, ..., 0] if rows.shape[-1] == 1 else rows[0]).save(buffer, "PNG")
    return pb.EncodedItems(items=[buffer.getvalue()])


def _check(name: str, response: Any, golden: dict[str, NDArray[Any]]) -> None:
    """Against what the trained model outputs, which is in the bundle."""
    if isinstance(response, pb.ScoreResponse):
        got, expected = from_tensor(response.out_of_distribution.scores, "scores"), golden["scores"]
    else:
        got, expected = from_tensor(response.embeddings, "embeddings"), golden["embedding"]
    off = np.abs(got - expected[: len(got)]).max() / np.abs(expected).max()
    if not off <= TOLERANCE:
        raise RuntimeError(f"{name}: the first answer is {off:g} off the bundle's golden rows")


class Load(threading.Thread):
    """Asks at random moments of a fixed rate, every question as often, until it is told to end.

    Args:
        target: host:port.
        asked: questions.
        rate: requests a second; infinite: each connection asks again when it has its answer.
        ledger: where everything is written.
    """

    def __init__(self, target: str, asked: list[Question], rate: float, ledger: Ledger) -> None:
        super().__init__(name="load", daemon=True)
        self._target, self._rate, self._ledger = target, rate, ledger
        self._askers = [Asker(target, one, ledger) for one in asked for _ in range(CONNECTIONS_EACH)]
        self._ended = threading.Event()
        self.sent = 0

    def run(self) -> None:
        """Asks until `end`, then waits for the last answers."""
        rng = np.random.default_rng(0)
        due = time.monotonic()
        while not self._ended.is_set():
            now = time.monotonic()
            while due <= now:
                self._ask(self._askers[self.sent % len(self._askers)], due)
                due = due + rng.exponential(1 / self._rate) if math.isfinite(self._rate) else math.inf
            if math.isinf(self._rate):
                for asker in self._askers:
                    if not asker.busy:
                        self._ask(asker, now)
            self._turn(min(due - time.monotonic(), 0.1))
        last = time.monotonic() + LAST_ANSWERS_SECONDS
        while any(asker.busy for asker in self._askers) and time.monotonic() < last:
            self._turn(0.1)
        for asker in self._askers:
            asker.give_up()

    def end(self) -> None:
        """No more requests; returns when the last answers have come."""
        self._ended.set()
        self.join()

    def _ask(self, asker: Asker, intended: float) -> None:
        self.sent += 1
        try:
            asker.ask(intended)
        except OSError as error:
            self._lost(asker, error)

    def _turn(self, seconds: float) -> None:
        try:
            turn(self._askers, seconds)
        except OSError as error:
            for asker in [one for one in self._askers if _is_lost(one)]:
                self._lost(asker, error)

    def _lost(self, asker: Asker, error: OSError) -> None:
        self._ledger.told.append(f"{asker.question.name}: connection lost: {error}")
        asker.give_up()
        self._askers[self._askers.index(asker)] = Asker(self._target, asker.question, self._ledger)


def _is_lost(asker: Asker) -> bool:
    """Whether the server has closed the connection."""
    try:
        return asker.socket.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
