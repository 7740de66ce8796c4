"""What an image costs with either bundle: CPU time through ONNX Runtime, bytes on disk and of an embedding."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort

from export.comparison.figures import Figure, cheaper
from export.comparison.sides import Side
from latentserve.cpus import available_cpus
from latentserve.devices import CPU
from latentserve.inputs import INPUT
from training.data.rows import Values

BATCH_ROWS = (1, 32)
NUM_ROUNDS = 6
"""Of A and B in turn. All six ratios lie above the median of such ratios, or below it, in 2 of 64 cases: the range of
the six is an interval of 96.9 % for it, whatever else runs (David and Nagaraja, Order Statistics, section 7.1)."""
ROUND_SECONDS = 0.02
"""Of each, in runs that take turns, of which the median counts: the scheduler is no part of what is measured."""
FEWEST_RUNS, MOST_RUNS = 3, 50

Run = Callable[[], object]


def costs(a: Side, b: Side, rows_a: Values, rows_b: Values) -> tuple[Figure, ...]:
    """Milliseconds a row, for the embedding alone, then bytes; the interval is that of A's over B's."""
    found = []
    threads = dict.fromkeys((1, available_cpus()))
    for num_threads in threads:
        sessions = [_session(side, num_threads) for side in (a, b)]
        for num_rows in BATCH_ROWS:
            runs = [_run(session, rows, num_rows) for session, rows in zip(sessions, (rows_a, rows_b), strict=True)]
            found.append(_timed(_name(num_rows, num_threads), runs, num_rows))
    sizes = ((side.num_bytes / 1e6, 4 * side.dim) for side in (a, b))
    (mb_a, bytes_a), (mb_b, bytes_b) = sizes
    return (
        *found,
        cheaper("MB on disk, all graphs", mb_a, mb_b, (mb_a / mb_b,) * 2),
        cheaper("bytes of an embedding", bytes_a, bytes_b, (bytes_a / bytes_b,) * 2),
    )


def _name(num_rows: int, num_threads: int) -> str:
    at_once = "alone" if num_rows == 1 else f"in a batch of {num_rows}"
    return f"ms a row {at_once}, {num_threads} thread{'s' * (num_threads > 1)}"


def _session(side: Side, num_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    return ort.InferenceSession(side.graphs["encoder"], options, providers=[CPU])


def _run(session: ort.InferenceSession, rows: Values, num_rows: int) -> Run:
    some = np.asarray(rows[:num_rows])
    batch = np.resize(some, (num_rows, *some.shape[1:]))
    return lambda: session.run(["embedding"], {INPUT: batch})


def _timed(name: str, runs: Sequence[Run], num_rows: int, clock: Callable[[], float] = time.perf_counter) -> Figure:
    """Medians of the rounds, and the range of their ratios."""

    def seconds(run: Run) -> float:
        started = clock()
        run()
        return max(clock() - started, 1e-9)

    for run in runs:
        run()  # the first of a shape is slower
    slowest = max(map(seconds, runs))
    num_runs = max(FEWEST_RUNS, min(MOST_RUNS, round(ROUND_SECONDS / slowest)))
    rounds = [np.median([[seconds(run) for run in runs] for _ in range(num_runs)], axis=0) for _ in range(NUM_ROUNDS)]
    ratios = [float(one / other) for one, other in rounds]
    a, b = (1000 * np.median(rounds, axis=0) / num_rows).tolist()
    return cheaper(name, a, b, (min(ratios), max(ratios)))
