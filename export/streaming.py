"""Embedding many rows: with progress, in bounded memory, and going on where it was killed.

While rows go through the graphs their outputs are written, a part every some seconds, to a hidden folder beside the
bundles of the model, under a key of the graphs and of the rows' digests. The same command, started again, reads them
there. The folder is removed once a bundle is complete. An export that takes no longer than some seconds writes nothing.

Detectors need no more than some training rows. Of a set that memory should not hold only these are embedded.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.detectors.drawing import FIT_ROWS, REFERENCE_ROWS, Drawn, draw
from export.finite import check_finite
from export.graphs import GraphRunner, Tensors, joined
from latentserve import bundle
from latentserve.inputs import ON_REQUEST
from latentserve.lock import Held, held
from training.data import Data, Rows
from training.data.lazy import Lazy, batch_rows, is_lazy, progress
from training.data.rows import Values
from training.data.units import row_digests

UNFINISHED = ".unfinished"
SECONDS_BETWEEN_PARTS = 15.0
"""As much work as a kill may cost. Larger parts are faster to read again."""
LARGE_BLOCK = 2**22
"""Bytes; what is larger goes back to the system when it is freed."""
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
NOT_KEPT = ON_REQUEST
"""Outputs that are as large as images; of what is fitted on them few rows are enough (`export.places`)."""


class Embedding:
    """Runs graphs over many rows; what was done is found again by the next process.

    Args:
        folder: where parts lie; None: nowhere.
        clock: seconds.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.clock = clock

    def run(self, runner: GraphRunner, rows: Rows, split: str) -> Tensors:
        """The outputs of every graph for all rows, but for those that nothing is fitted on.

        Args:
            runner: of the graphs.
            rows: to be embedded, in memory or not.
            split: that they are of, for messages.

        Raises:
            ExportError: an embedding is not finite.
        """
        values, what = rows.values, f"{split} rows"
        place = None if self.folder is None else self.folder / _key(runner, values)
        done = list(_parts(place, len(rows)))
        num_done = _num_rows(done)
        if num_done:
            print(f"{what}: {num_done} of {len(rows)} rows were embedded before; going on", file=sys.stderr, flush=True)
        waiting, saved_at = list[Tensors](), self.clock()
        with progress(what, len(rows)) as bar:
            bar.update(num_done)
            for outputs in runner.batches(values[num_done:], batch_rows(values)):
                check_finite(outputs["embedding"], rows, split, num_done)
                num_done += _num_rows([outputs])
                waiting.append({name: array for name, array in outputs.items() if name not in NOT_KEPT})
                bar.update(_num_rows(waiting[-1:]))
                if place is not None and self.clock() - saved_at >= SECONDS_BETWEEN_PARTS:
                    done.append(joined(waiting))
                    _save(place, _num_rows(done[:-1]), done[-1])
                    waiting, saved_at = [], self.clock()
        return joined(done + waiting)


@contextlib.contextmanager
def unfinished(model: Path) -> Iterator[Embedding]:
    """Embedding whose parts lie beside the bundles of a model, and are removed at the end unless it fails.

    While another process makes a bundle of the same model nothing is written.
    """
    folder = model / UNFINISHED
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(exist_ok=True)
            stack.enter_context(held(folder))
        except Held:
            yield Embedding(None)
            return
        try:
            yield Embedding(folder)
        except BaseException:
            with contextlib.suppress(OSError):  # it holds nothing
                folder.rmdir()
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _key(runner: GraphRunner, rows: Values) -> str:
    digest = hashlib.sha256()
    for graph in runner.graphs:
        digest.update(bytes.fromhex(bundle.sha256_of_file(runner.folder / graph.file)))
    digest.update(f"{runner.device} {batch_rows(rows)}".encode())
    given: object = rows
    digest.update(given.fingerprint.encode() if isinstance(given, Lazy) else b"".join(row_digests(rows)))
    return digest.hexdigest()[:32]


def _parts(place: Path | None, num_rows: int) -> Iterator[Tensors]:
    """What is there, as far as one part follows another and can be read."""
    num_done = 0
    while place is not None and num_done < num_rows and (file := place / f"{num_done}.npz").is_file():
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                part = dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return
        num_done += _num_rows([part])
        yield part


def _save(place: Path, start: int, part: Tensors) -> None:
    """A disk that is full is no reason to end: what was embedded is in memory."""
    new = place / ".new.npz"
    with contextlib.suppress(OSError):
        place.mkdir(exist_ok=True)
        np.savez(new, **part)  # type: ignore[arg-type]  # of allow_pickle, which no part is called
        new.replace(place / f"{start}.npz")


def _num_rows(parts: list[Tensors]) -> int:
    return sum(len(next(iter(part.values()))) for part in parts)


def to_fit_on(data: Data) -> tuple[Data, Drawn | None]:
    """The data with no more training rows than detectors need, and which of them are for what.

    Of data in memory all rows are kept, and None: the detectors draw for themselves. They draw the same rows.
    """
    train = data.train
    if not is_lazy(train.values) or len(train) <= FIT_ROWS + REFERENCE_ROWS:
        return data, None
    _return_large_blocks()
    chosen = draw(len(train), train.units_N if train.units_N is not None else _twins(train))
    rows = np.sort(np.concatenate(chosen))
    places = Drawn(*(np.searchsorted(rows, of_kind) for of_kind in chosen))
    print(
        f"{data.spec}: {len(rows)} of {len(train)} training rows are embedded, drawn at random: {len(places.fitted)}"
        f" that detectors are fitted on, {len(places.reference)} that they are compared on",
        file=sys.stderr,
        flush=True,
    )
    return replace(data, train=train.take(rows)), places


def _return_large_blocks() -> None:
    """Sets of glibc a bound that it moves by itself otherwise: it then keeps freed blocks of up to 32 MiB, in pieces.

    Batches of large rows are such blocks, of several sizes: memory that nobody uses. Other C libraries
    have no such call, and are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def _twins(rows: Rows) -> np.ndarray | None:
    return rows.with_twins().units_N
