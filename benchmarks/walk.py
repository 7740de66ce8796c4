"""Which files of service/ a Score of one JPEG passes, in order, in a real server on our own HTTP/2. Prints Markdown.

    python -m benchmarks.walk --models build/demo-digits/models

A step of the walk is the begin of a function of service/ to which the request is handed on: one of its arguments is or
holds the request's bytes, its message, its rows, the tensors, the decisions or the answer. A step in another file than
the step before it is a move; a move to a file that the walk has been in before is a return. From one file to one other
there is one move, however often a loop makes it. A coroutine counts when it first runs, not when it goes on; coming
back from a function is no step.

Apart from the walk stand:

    what records (`observing/`): it is told of the request and hands nothing on;
    pure functions of one frame or message (`http2/frames.py`, `http2/grpc_framing.py`);
    functions that never see the request: they find its model, keep room for so many rows, form a batch of the places
    in a queue that stand for requests. Their files are listed, their steps are not;
    comprehensions and lambdas, which are read where they stand.

All threads are traced with `sys.setprofile`. The connection is open and has answered other Scores before. Of several
walks the most frequent is printed: what comes first where two things may happen at once is chance.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import numpy as np
import tyro
from google.protobuf.message import Message
from PIL import Image

import service
from latentserve.client import Client
from service.config import load_config
from service.server import Server

ROOT = Path(service.__file__).resolve().parent
RECORDS = ("observing/",)
PURE = ("transport/http2/frames.py", "transport/http2/grpc_framing.py")
NO_DATA = frozenset({"ServedModel", "Context", "Call", "Job", "Files"})
"""Dataclasses of ours that are no part of a request, or that only stand for one in a queue."""
INLINE = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>")
WALKS = 12
DEEP = 4
"""Levels of containers in which the request is looked for."""


@dataclass(frozen=True)
class Options:
    """Traces one Score of one JPEG.

    Attributes:
        models: a model repository with one model of images that scores.
    """

    models: Path = Path("build/demo-digits/models")


@dataclass(frozen=True)
class Step:
    """The begin of a function."""

    file: str
    function: str
    carries: bool


def holds(value: Any, marks: tuple[bytes, ...], depth: int = DEEP) -> bool:
    """Whether a value is or holds what came of a request, or what is made of it."""
    if isinstance(value, (bytes, bytearray)):
        return any(mark in value for mark in marks)
    if isinstance(value, (Message, np.ndarray)):
        return True
    return depth > 0 and any(holds(one, marks, depth - 1) for one in _parts(value))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):  # the files of a message, too
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
    known = type(value).__module__.startswith("service.") and type(value).__name__ not in NO_DATA
    if known and is_dataclass(value):
        return [getattr(value, one.name, None) for one in fields(value)]
    return []


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


@dataclass
class Trace:
    """Begins of functions of service/, in every thread.

    Attributes:
        marks: bytes by which a request or an answer is known.
        steps: so far.
        is_on: whether any are taken down.
    """

    marks: tuple[bytes, ...]
    steps: list[Step] = field(default_factory=list)
    is_on: bool = False
    _seen: dict[int, FrameType] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See `sys.setprofile`."""
        code = frame.f_code
        if event != "call" or not self.is_on or not code.co_filename.startswith(f"{ROOT}/"):
            return
        if code.co_name in INLINE or id(frame) in self._seen:  # or a coroutine that goes on
            return
        self._seen[id(frame)] = frame
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = [value for name, value in frame.f_locals.items() if name in names and name not in ("self", "cls")]
        file = str(Path(code.co_filename).relative_to(ROOT))
        self.steps.append(Step(file, code.co_qualname, any(holds(value, self.marks) for value in given)))

    def taken(self) -> tuple[Step, ...]:
        """The steps; begins anew."""
        steps = tuple(self.steps)
        self.steps, self._seen = [], {}
        return steps


def jpeg() -> bytes:
    """A small grey one."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


async def walks(models: Path) -> list[tuple[Step, ...]]:
    """Scores a JPEG several times; the steps of each time."""
    image = jpeg()
    trace = Trace((image, b"digits-vae"))
    threading.setprofile(trace)
    sys.setprofile(trace)

    def score(port: int) -> list[tuple[Step, ...]]:
        sys.setprofile(None)  # the client's own thread
        found = []
        with Client(f"127.0.0.1:{port}") as client:
            for _ in range(WALKS):
                time.sleep(0.05)
                trace.is_on = True
                client.score([image])
                time.sleep(0.05)  # what follows the answer: the stream is closed
                trace.is_on = False
                found.append(trace.taken())
        return found[2:]

    given = ["--models", str(models), "--port", "0", "--metrics-port", "0", "--device", "cpu"]
    async with Server(load_config(given)) as server:
        found = await asyncio.get_running_loop().run_in_executor(None, score, server.port)
    sys.setprofile(None)
    threading.setprofile(None)
    return found


def moves_of(steps: list[Step]) -> list[Step]:
    """The steps in another file than the step before, but for further rounds of a loop."""
    moves, made, at = list[Step](), set[tuple[str, str]](), ""
    for step in steps:
        if step.file != at and (at, step.file) not in made:
            made.add((at, step.file))
            moves.append(step)
        at = step.file
    return moves


def counts(moves: list[Step]) -> str:
    """Files, moves and returns, in words."""
    files = {step.file for step in moves}
    return f"{len(files)} files, {len(moves)} moves, {len(moves) - len(files)} of them returns"


def page(steps: tuple[Step, ...]) -> str:
    """The walk as Markdown."""
    walk = [step for step in steps if step.carries and not step.file.startswith(RECORDS) and step.file not in PURE]
    inner = [step for step in walk if not step.file.startswith("transport/")]
    lines = ["| | file | begins with |", "| --- | --- | --- |"]
    been: set[str] = set()
    for number, step in enumerate(moves_of(walk), start=1):
        again = " (return)" if step.file in been else ""
        been.add(step.file)
        lines.append(f"| {number} | {step.file}{again} | {step.function} |")
    asked = sorted({step.file for step in steps} - been)
    lines += ["", f"The walk: {counts(moves_of(walk))}."]
    lines += [f"Without transport/: {counts(moves_of(inner))}."]
    lines += [f"Every begin of a function: {counts(moves_of(list(steps)))}.", ""]
    return "\n".join([*lines, f"Asked or told on the way: {', '.join(asked)}."])


def main(options: Options) -> int:
    """Prints the walk."""
    found = Counter(asyncio.run(walks(options.models)))
    print(page(found.most_common(1)[0][0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.walk")))
