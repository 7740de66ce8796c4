"""The live monitor, simulated: does it alarm without a shift, and how soon with one?

    python -m benchmarks.results.monitor        about three minutes of one core

Scores of usual rows are normal, those of strange rows shifted to the AUROC that is named. Each run draws a calibration
set and a stream of its own. "Naive" are the same bets on ranks among the calibration rows alone. Writes
docs/results/monitor.json.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import tyro
from numpy.typing import NDArray

from latentserve import records
from service.observing.e_process import EProcess
from service.observing.monitor import EmbeddingDrift, Monitor, MonitorConfig
from service.observing.ranks import Ranks

RESULTS = Path("docs/results/monitor.json")
LEVEL, ALPHA = 0.01, 0.05
NUM_AFTER = 1500
"""Rows after a shift begins; slower alarms count as none."""


@dataclass(frozen=True)
class Options:
    """Simulates the monitor.

    Attributes:
        runs: of each case.
        rows: of a stream without a shift.
    """

    runs: int = 1000
    rows: int = 10_000

    @property
    def fewer_runs(self) -> int:
        """Of what takes long and of what nothing is promised for."""
        return max(1, self.runs // 5)

    def runs_of(self, shift: Shift) -> int:
        """All for the promise: 20 % contamination at an AUROC of 0.95 from the start."""
        return self.runs if (shift.share, shift.auroc, shift.clean_rows) == (0.2, 0.95, 0) else self.fewer_runs


@dataclass(frozen=True)
class Quiet:
    """Streams without a shift.

    Attributes:
        calibration_rows: of each run.
        alarmed: share of runs whose wealth ever reached 1 / level.
        naive_alarmed: the same without learning from the stream, a fifth of the runs.
        window_outside: share of runs whose window was outside its band at the end.
    """

    calibration_rows: int
    alarmed: float
    naive_alarmed: float
    window_outside: float


@dataclass(frozen=True)
class Shift:
    """Streams with a shift, after rows without one.

    Attributes:
        share: of strange rows.
        auroc: of their scores.
        calibration_rows: of each run.
        clean_rows: before the shift.
        within_500: share of runs alarmed at most 500 rows after the shift, among those not alarmed before it.
        median_delay_rows: over the same runs; 1,500 if most were not alarmed by then.
        window_outside: share of runs whose window was outside its band 1,000 rows after the shift.
    """

    share: float
    auroc: float
    calibration_rows: int
    clean_rows: int
    within_500: float = 0.0
    median_delay_rows: float = 0.0
    window_outside: float = 0.0


@dataclass(frozen=True)
class Drift:
    """Means of embeddings, 256 dimensions that are correlated, 1,000 calibration rows.

    Attributes:
        moved: by so many standard deviations in each dimension.
        value: of the drift after 1,000 rows, on average.
        alarmed: share of runs alarmed then.
    """

    moved: float
    value: float = 0.0
    alarmed: float = 0.0


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        runs: of each case; a fifth of them for shifts after clean rows, and for harder and easier ones.
        rows: of a stream without a shift.
        level: of every alarm.
        quiet: by calibration size.
        shifts: harder and easier ones.
        drifts: of embeddings.
        microseconds: of one request, by its rows, with embeddings [D = 256].
    """

    runs: int
    rows: int
    level: float
    quiet: tuple[Quiet, ...]
    shifts: tuple[Shift, ...]
    drifts: tuple[Drift, ...]
    microseconds: dict[str, float]


F = TypeVar("F", Quiet, Shift, Drift)
SHIFTS = (
    Shift(0.2, 0.95, 1000, 0),
    Shift(0.2, 0.95, 5000, 0),
    Shift(0.2, 0.95, 1000, 20_000),
    Shift(0.2, 0.95, 5000, 20_000),
    Shift(0.2, 0.99, 1000, 0),
    Shift(0.05, 0.99, 1000, 0),
    Shift(0.2, 0.75, 1000, 0),
    Shift(0.2, 0.75, 5000, 0),
    Shift(1.0, 0.6, 1000, 0),
    Shift(1.0, 0.75, 1000, 0),
)


def main(options: Options) -> int:
    """Simulates, prints, writes; returns 1 if a promise of the monitor does not hold."""
    logging.disable()  # each alarm is a warning
    micros = {str(num): microseconds(num) for num in (1, 8, 64)}
    print("microseconds of one request, by its rows:", micros, flush=True)
    drifts = tuple(printed(measure_drift(Drift(moved), options.runs)) for moved in (0.0, 0.1, 0.2))
    shifts = tuple(printed(measure_shift(shift, options.runs_of(shift))) for shift in SHIFTS)
    quiet = tuple(printed(measure_quiet(num, options)) for num in (1000, 5000))
    figures = Figures(options.runs, options.rows, LEVEL, quiet, shifts, drifts, micros)
    if options == Options():
        records.write(figures, RESULTS)
    main_case = [shift for shift in shifts if (shift.share, shift.auroc) == (0.2, 0.95)]
    kept = all(one.alarmed <= LEVEL for one in quiet) and all(one.within_500 >= 0.95 for one in main_case)
    return 0 if kept and micros["1"] < 20 else 1


def printed(figures: F) -> F:
    """The same."""
    print("  ".join(f"{name} {value:g}" for name, value in asdict(figures).items()), flush=True)
    return figures


def stream(rng: np.random.Generator, num: int, shift: Shift | None = None) -> NDArray[np.float64]:
    """Scores [num, 1]."""
    scores = rng.normal(size=(num, 1))
    if shift:
        scores += math.sqrt(2) * NormalDist().inv_cdf(shift.auroc) * (rng.random((num, 1)) < shift.share)
    return scores


def new_monitor(rng: np.random.Generator, num_calibration: int) -> Monitor:
    """Over calibration rows of its own."""
    return Monitor("simulated", rng.normal(size=num_calibration), ALPHA, MonitorConfig(level=LEVEL))


def measure_quiet(num_calibration: int, options: Options) -> Quiet:
    """Rows like the calibration rows."""
    alarmed = naive = outside = 0
    for seed in range(options.runs):
        rng = np.random.default_rng([num_calibration, seed])
        monitor = new_monitor(rng, num_calibration)
        scores = stream(rng, options.rows)
        monitor.observe(scores, None)
        alarmed += monitor.alarm_row is not None
        outside += monitor.alarms["window"]
        if seed < options.fewer_runs:
            naive += naive_alarm(np.random.default_rng([num_calibration, seed]).normal(size=num_calibration), scores)
    runs = options.runs
    return Quiet(num_calibration, alarmed / runs, naive / options.fewer_runs, outside / runs)


def naive_alarm(calibration: NDArray[np.float64], scores: NDArray[np.float64]) -> bool:
    """The same bets on p-values as they are answered to callers."""
    ranks, process = Ranks(calibration), EProcess()
    for score in scores[:, 0].tolist():
        process.bet(*ranks.interval(ranks.place(ranks.key(score))))
        if process.wealth >= 1 / LEVEL:
            return True
    return False


def measure_shift(shift: Shift, runs: int) -> Shift:
    """Strange rows among usual ones from some row on."""
    delays, outside = [], 0
    for seed in range(runs):
        rng = np.random.default_rng([shift.calibration_rows, seed, 1])
        monitor = new_monitor(rng, shift.calibration_rows)
        monitor.observe(stream(rng, shift.clean_rows), None)
        if monitor.alarm_row is not None:
            continue
        monitor.observe(stream(rng, 1000, shift), None)
        outside += monitor.alarms["window"]
        monitor.observe(stream(rng, NUM_AFTER - 1000, shift), None)
        delays.append(monitor.alarm_row - shift.clean_rows if monitor.alarm_row else math.inf)
    return replace(
        shift,
        within_500=float(np.mean(np.array(delays) <= 500)),
        median_delay_rows=float(np.median(np.minimum(delays, NUM_AFTER))),
        window_outside=outside / len(delays),
    )


def measure_drift(drift: Drift, runs: int) -> Drift:
    """Embeddings whose spectrum falls as 1 / rank: a few directions hold most of the variance."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(256, 256)) / np.arange(1, 257)[:, None] ** 0.5
    std = np.sqrt((mix**2).sum(axis=0))
    values, alarmed = [], 0
    for _ in range(runs):
        # Means of 1,000 rows, drawn as such: what matters of the calibration rows and of ten requests of 100.
        expected = rng.normal(size=256) @ mix / math.sqrt(1000)
        watching = EmbeddingDrift(expected, std, 1000, MonitorConfig(level=LEVEL))
        for _ in range(10):
            mean = rng.normal(size=256) @ mix / math.sqrt(100) + drift.moved * std
            watching.observe(np.repeat(mean[None], 100, axis=0))
        values.append(watching.value)
        alarmed += watching.alarm
    return replace(drift, value=float(np.mean(values)), alarmed=alarmed / runs)


def microseconds(num: int, dims: int = 256) -> float:
    """Of one request of so many rows, the fastest of many groups: other load on the machine is not ours."""
    rng = np.random.default_rng(0)
    statistics = np.zeros(dims, np.float32), np.ones(dims, np.float32)
    monitor = Monitor("timed", rng.normal(size=5000), ALPHA, MonitorConfig(), statistics)
    scores, embeddings = rng.normal(size=(num, 2)), rng.normal(size=(num, dims)).astype(np.float32)
    seconds = min(timed(lambda: monitor.observe(scores, embeddings), 200) for _ in range(100))
    return seconds * 1e6


def timed(work: Callable[[], None], repeats: int) -> float:
    """Seconds of one."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.monitor")))
