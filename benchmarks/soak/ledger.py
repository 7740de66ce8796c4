"""What was asked, what came back, and whether it was right: every request has an answer that is known beforehand."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.load_client import LoadClient
from service.transport.http2 import frames as wire

OK = "0"


@dataclass(eq=False)
class Question:
    """A request and every right answer to it.

    Attributes:
        name: for people.
        method: of the service.
        message: the request, with its gRPC frame.
        answers: messages, with their gRPC frames, any of which is right.
        timeout: as `grpc-timeout` says it.
        excuses: gRPC status numbers that are no surprise, with why.
    """

    name: str
    method: str
    message: bytes
    answers: set[bytes]
    timeout: str = "20S"
    excuses: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A request without its answer: which, sent and ended when (monotonic seconds), with what status."""

    question: Question
    sent: float
    ended: float
    code: str


@dataclass(frozen=True)
class Excuse:
    """Why requests that were under way between two moments may have ended with these statuses."""

    why: str
    start: float
    end: float
    codes: frozenset[str]


@dataclass
class Ledger:
    """Every request ends in one of four columns.

    Attributes:
        right: answers that are right, by question.
        wrong: answers that are not, by question.
        failures: requests without an answer.
        excuses: what was done to the server meanwhile.
        told: what went wrong otherwise, in words.
    """

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    excuses: list[Excuse] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def note(self, question: Question, sent: float, code: str, body: bytes) -> None:
        """A request has ended."""
        if code != OK:
            self.failures.append(Failure(question, sent, time.monotonic(), code))
        elif body in question.answers:
            self.right[question.name] += 1
        else:
            self.wrong[question.name] += 1

    def explained(self) -> Counter[str]:
        """Failures that had to be expected, by why."""
        return Counter(why for failure in self.failures if (why := self._why(failure)))

    def unexplained(self) -> Counter[str]:
        """Failures that had not, by question and status; and what else went wrong."""
        counts = Counter(f"{one.question.name}: status {one.code}" for one in self.failures if not self._why(one))
        return counts + Counter(self.told)

    def _why(self, failure: Failure) -> str:
        if failure.code in failure.question.excuses:
            return failure.question.excuses[failure.code]
        for excuse in self.excuses:
            meanwhile = failure.sent <= excuse.end and failure.ended >= excuse.start
            if meanwhile and failure.code in excuse.codes:
                return excuse.why
        return ""


class Asker(LoadClient):
    """A connection that asks one question again and again, and looks at the answers.

    Args:
        target: host:port.
        question: what to ask.
        ledger: where what became of it is written.
    """

    def __init__(self, target: str, question: Question, ledger: Ledger) -> None:
        host, _, port = target.partition(":")
        path = f"/latentserve.v1.EmbeddingService/{question.method}"
        fields = (
            *(
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", target.encode()),
            ),
            *(
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
                (b"grpc-timeout", question.timeout.encode()),
            ),
        )
        super().__init__(host, int(port), wire.literal_headers(fields), question.message)
        self.question = question
        self._ledger = ledger
        self._parts: dict[int, list[bytes]] = {}

    def give_up(self) -> None:
        """The connection is gone, and with it whatever is not answered."""
        self.socket.close()
        for request in self.flying.values():
            self._ledger.note(self.question, request.intended, "no answer", b"")
        for intended in self.backlog:
            self._ledger.note(self.question, intended, "not sent", b"")
        self.flying.clear()
        self.backlog.clear()

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == wire.DATA:
            self._parts.setdefault(stream_id, []).append(payload)
        super()._frame(kind, flags, stream_id, payload)

    def _answered(self, stream_id: int, code: str) -> None:
        request = self.flying.get(stream_id)
        if request is not None:
            self._ledger.note(self.question, request.intended, code, b"".join(self._parts.pop(stream_id, ())))
        super()._answered(stream_id, code)
        self.seen.latencies.clear()  # for ever would be too long
        self.seen.late.clear()
        self.seen.failed_at.clear()


def framed(message: Any) -> bytes:
    """A protobuf message with its gRPC frame."""
    body: bytes = message.SerializeToString()
    return bytes([0]) + len(body).to_bytes(4, "big") + body
