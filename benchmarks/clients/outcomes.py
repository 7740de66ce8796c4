"""Whether a client got what it asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import grpc
import numpy as np

from benchmarks.clients.asked import parted
from benchmarks.clients.questions import Expected, Questions
from latentserve.tensors import from_tensor
from latentserve.v1 import embedding_pb2 as pb

Outcome = Literal["ok", "wrong", "refused", "not run"]
REFUSALS = ("UNIMPLEMENTED", "RESOURCE_EXHAUSTED")
"""The server says that it does not do this: a limit, no fault."""
_NAMES = {status.value[0]: status.name for status in grpc.StatusCode}


@dataclass(frozen=True)
class Heard:
    """How a call ended for a client.

    Attributes:
        code: gRPC status.
        message: with it.
        answer: as the client wrote it.
    """

    code: int
    message: str
    answer: bytes


@dataclass(frozen=True)
class Cell:
    """One client's fate at one check.

    Attributes:
        outcome: of it.
        why: it is not ok.
    """

    outcome: Outcome
    why: str = ""


def cell_of(heard: Sequence[Heard], expected: Sequence[Expected]) -> Cell:
    """Call by call; the first that is not as expected tells."""
    for number, (got, wanted) in enumerate(zip(heard, expected, strict=False), 1):
        where = f"call {number} of {len(expected)}: " if len(expected) > 1 else ""
        if _NAMES.get(got.code) in REFUSALS and wanted.code == 0:
            return Cell("refused", f"{where}{_status(got)}")
        if got.code != wanted.code or wanted.text not in got.message:
            return Cell("wrong", f"{where}got {_status(got)}, expected {_NAMES[wanted.code]} {wanted.text}".strip())
        if wanted.embeddings is not None and pb.EmbedResponse.FromString(got.answer).embeddings != wanted.embeddings:
            return Cell("wrong", f"{where}other embeddings than grpcio's")
    if len(heard) != len(expected):
        return Cell("wrong", f"the client ended after {len(heard)} of {len(expected)} calls")
    return Cell("ok")


def cell_of_stream(heard: Sequence[Heard], found: Questions) -> Cell:
    """Every item answered, in order, with the scores that one call for all of them gets."""
    cell = cell_of(heard, (Expected(),))
    if cell.outcome != "ok":
        return cell
    answers = [pb.ScoreStreamResponse.FromString(one) for one in parted(heard[0].answer)]
    if [answer.id for answer in answers] != list(range(len(found.stream))):
        return Cell("wrong", f"got {len(answers)} answers, expected {len(found.stream)} in their order")
    for answer in answers:
        scored = answer.response.out_of_distribution
        if answer.code != 0:
            return Cell("wrong", f"item {answer.id}: {_NAMES[answer.code]} {answer.message}")
        if not np.array_equal(from_tensor(scored.scores, "scores")[0], found.scores[answer.id]):
            return Cell("wrong", f"item {answer.id}: other scores than Score's")
        if list(scored.p_values) != [found.p_values[answer.id]]:
            return Cell("wrong", f"item {answer.id}: another p-value than Score's")
    return Cell("ok")


def _status(heard: Heard) -> str:
    return f"{_NAMES.get(heard.code, heard.code)} {heard.message}".strip()
