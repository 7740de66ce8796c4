"""Which metric replicas should be scaled on: an hour of load, simulated with batch times that were measured.

    python -m benchmarks.autoscaling            two minutes; prints the table of docs/guides/kubernetes.md
    python -m benchmarks.autoscaling --record   and draws docs/pictures/autoscaling.svg

The load is made up: a thousand requests a second, a climb to four thousand within five minutes, a jump to eight for
three minutes, and a fall. A batch takes what encoder and scorer of a bundle took (`docs/results/scoring.json`), a
straight line through 1 and 64 rows. Every replica has cores of its own, and requests are of one row.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import tyro
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from benchmarks.autoscaling.fleet import Outcome, arrivals, by, simulate
from benchmarks.autoscaling.replicas import Engine
from latentserve import records

ROOT = Path(__file__).resolve().parents[2]
COSTS, PICTURE = ROOT / "docs" / "results" / "scoring.json", ROOT / "docs" / "pictures" / "autoscaling.svg"
MINUTES = (0, 5, 10, 25, 25, 28, 28, 40, 45, 60)
RATES = (1, 1, 4, 4, 8, 8, 4, 4, 1, 1)
JUMP = 25
LATE = 0.25
"""Seconds to an answer."""


@dataclass(frozen=True)
class Options:
    """Simulates an hour of load under several policies.

    Attributes:
        bundle: of docs/results/scoring.json, whose scores are asked for.
        start_up: seconds from the decision to a replica that is ready.
        most: replicas, at most.
        record: draw the picture.
    """

    bundle: str = "simclr-cifar10-after/1"
    start_up: float = 20.0
    most: int = 10
    record: bool = False


def main(options: Options) -> int:
    """Prints the table."""
    engine = engine_of(options.bundle)
    rates = load()
    print(f"{options.bundle}: {engine.rate:,.0f} rows a second and replica at most", file=sys.stderr)
    given, outcomes = arrivals(rates), dict[str, Outcome]()
    steady = int(np.ceil(4000 / engine.rate / 0.6)) + 1
    peak = int(np.ceil(8000 / engine.rate / 0.6)) + 1
    least, most, full = 2, options.most, engine.rate
    policies = {
        "queue": by(least, most, queue_ms=20),
        "busy": by(least, most, busy=0.7),
        "rows": by(least, most, rate=0.6 * full),
        "rows or queue": by(least, most, rate=0.6 * full, queue_ms=20),
        "rows, half": by(least, most, rate=0.3 * full),
        f"always {steady}": None,
        f"always {peak}": None,
    }
    for name, decide in policies.items():
        first = int(name.split()[1]) if decide is None else 2
        outcomes[name] = simulate(engine, given, first, options.start_up, decide)
    print("\n".join(table(outcomes)))
    if options.record:
        plot(outcomes)
    return 0


def engine_of(bundle: str) -> Engine:
    """A line through the times of 1 and of 64 rows."""
    costs = [one for one in records.read_json(COSTS)["costs"] if one["bundle"] == bundle]
    ms = {one["rows"]: one["milliseconds"]["encoder"] + one["milliseconds"]["scorer"] for one in costs}
    if not ms:
        raise SystemExit(f"bundle: got {bundle!r}, expected one of those in {COSTS}")
    per_row = (ms[64] - ms[1]) / 63
    return Engine((ms[1] - per_row) / 1e3, per_row / 1e3)


def load() -> NDArray[np.float64]:
    """Requests a second, second by second."""
    seconds = np.arange(MINUTES[-1] * 60)
    return np.asarray(1000 * np.interp(seconds / 60, np.array(MINUTES) + np.arange(len(MINUTES)) * 1e-6, RATES))


def table(outcomes: dict[str, Outcome]) -> list[str]:
    """Markdown."""
    rows = [
        "| replicas by | replica hours | most | p50 ms | p99 ms | late in the climb | late in the jump | changes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in outcomes.items():
        numbers = [period.replicas for period in one.periods]
        p50, p99 = 1e3 * np.percentile(np.concatenate(one.seconds), [50, 99])
        changes = int(np.count_nonzero(np.diff(numbers)))
        climb, jump = one.late(LATE, 0, JUMP), one.late(LATE, JUMP, MINUTES[-1])
        rows.append(
            f"| {name} | {one.replica_hours:.1f} | {max(numbers)} | {p50:.1f} | {p99:,.0f} "
            f"| {climb:.2%} | {jump:.2%} | {changes} |"
        )
    return rows


def plot(outcomes: dict[str, Outcome]) -> None:
    """Load and replicas above, p99 below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
    some = [name for name in outcomes if not name.startswith("always")]
    first = outcomes[some[0]].periods
    loaded = above.twinx()
    loaded.fill_between([one.minute for one in first], [one.rate for one in first], color="#e3e7ea", label="load")
    loaded.set(ylabel="requests a second", ylim=(0, None))
    above.set_zorder(1)
    above.patch.set_visible(False)
    for name in some:
        periods = outcomes[name].periods
        minutes = [one.minute for one in periods]
        above.step(minutes, [one.replicas for one in periods], label=name)
        below.plot(minutes, [one.p99 for one in periods])
    above.set(ylabel="replicas", ylim=(0, None))
    below.axhline(1e3 * LATE, color="grey", linestyle=":")
    below.set(yscale="log", ylabel="p99 of 15 s, ms", xlabel="minutes")
    figure.legend(*above.get_legend_handles_labels(), loc="upper center", ncols=len(some), title="replicas by")
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.autoscaling")))
