"""A job from beginning to end: what is done is left out, the rest becomes parts."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

import pyarrow.compute as pc

from latentserve.bulk.engines import BATCH_ROWS, Asked, Engine
from latentserve.bulk.folder import Folder
from latentserve.bulk.listing import Item
from latentserve.bulk.schema import FLAGGED, Answers, Job, table
from latentserve.cli.meter import Meter

SCHEMA_VERSION = 1
STOPPED = 130
"""Exit status of a job that was asked to stop."""
SECONDS_OF_A_LINE = 60.0
"""Where nobody watches, in a log."""


@dataclass
class Tally:
    """What a run of a job did: rows written, and how many of them are errors or flagged."""

    rows: int = 0
    failed: int = 0
    flagged: int = 0
    stopped: bool = False


class Stop:
    """Ctrl-C (or SIGTERM) asks to stop after the part in hand, once more ends the process.

    No thread is waited for: one may hang in a file system that is away, and whatever is not written is lost anyhow.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._on) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(STOPPED)
        self.asked = True
        print("\nstopping after this part; Ctrl-C again stops at once, and loses it", file=sys.stderr)


def job_of(engine: Engine, asked: Asked, half: bool, part_rows: int) -> Job:
    """What the job file is to say."""
    model = engine.model
    return Job(
        schema_version=SCHEMA_VERSION,
        model=model.name,
        version=model.version,
        embedding_space=model.embedding_space,
        calibration=model.calibration,
        columns=asked.columns,
        embedding_size=model.embedding_size,
        half=half,
        alpha=model.alpha,
        guarantee=asked.guarantee if asked.scores else "",
        part_rows=part_rows,
    )


def work(folder: Folder, job: Job, engine: Engine, items: Sequence[Item], meter: Meter, stop: Stop) -> Tally:
    """Answers the items, part by part, until all are written or somebody stops it.

    Raises:
        OSError: a part cannot be written. Those before it are whole.
        LatentserveError: the engine cannot go on.
    """
    tally = Tally()
    part: list[Answers] = []
    for some in engine.answers(_batches(items, job.part_rows)):
        part.append(some)
        meter.count(len(some.ids))
        num = sum(len(one.ids) for one in part)
        if num == job.part_rows or tally.rows + num == len(items):
            rows = table(job, part)
            folder.write(rows)
            tally.rows += num
            tally.failed += num - rows["error"].null_count
            tally.flagged += pc.sum(rows[FLAGGED]).as_py() or 0
            part = []
            if stop.asked and tally.rows < len(items):
                tally.stopped = True
                break
    return tally


def _batches(items: Sequence[Item], part_rows: int) -> Iterator[Sequence[Item]]:
    """None crosses a part: what is answered together is the same whenever the job was killed."""
    for first in range(0, len(items), part_rows):
        last = min(first + part_rows, len(items))
        for at in range(first, last, BATCH_ROWS):
            yield items[at : min(at + BATCH_ROWS, last)]


def left(items: Sequence[Item], done: set[str]) -> list[Item]:
    """Those without a row."""
    return list(itertools.filterfalse(lambda item: item.source in done, items))
