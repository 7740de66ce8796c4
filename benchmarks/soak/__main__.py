"""A real server at 70 % of what it can do, with a fault every 20 seconds, for half an hour.

    python -m benchmarks.soak                       on the bundle of `make demo`; about half an hour
    python -m benchmarks.soak --minutes 1 --every 5 the same in short
    python -m benchmarks.soak --record              and writes docs/results/soak.json

Every request has an answer that is known beforehand, bit for bit: whatever is done to the server, an answer is right,
or its failure is explained by what was done. Targets: 0 wrong answers, 0 unexplained failures, and in half an hour
memory that grows by less than 1 MB an hour. While other work takes more than a quarter of the machine's cores, an
overload is that work's; how long that was stands in the figures, and memory growth is checked where it was at most a
tenth of the time.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.processes.served import ServedProcess
from benchmarks.soak.faults import FAULTS, Scene, Unexpected, good_version, removed_version
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.load import Load, questions
from benchmarks.soak.machine import others
from benchmarks.soak.memory import Growth, Samples
from latentserve import records
from latentserve.errors import LatentserveError

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "soak.json"
MODELS = Path("build") / "demo-digits" / "models"
LOAD = 0.7
MOST_MB_PER_HOUR = 1.0
GROWTH_MINUTES = 30.0
"""Growth is checked in runs of at least this length: a shorter run tells nothing of an hour."""
VERSIONS = 16
"""That are loaded and unloaded before memory is watched, in runs in which growth is checked."""
WARM_UP = 0.2
"""Of the time, before memory is looked at: arenas and caches fill up. Longer than a round of all faults."""
MOST_DISTURBED = 0.1
"""Of the time, at most, for growth to be checked: a server that falls behind keeps what waits."""
LATE_SECONDS = 3.0
"""After the last fault."""


@dataclass(frozen=True)
class Options:
    """Asks a server for a long time while things go wrong.

    Attributes:
        models: model repository; its first bundle is served. `make demo` makes the default one.
        minutes: length of the run.
        every: seconds from one fault to the next.
        rate: requests per second; default: 70 % of what a closed loop reaches.
        record: write docs/results/soak.json.
    """

    models: Path = MODELS
    minutes: float = 30.0
    every: float = 20.0
    rate: float | None = None
    record: bool = False


@dataclass(frozen=True)
class Figures:
    """What came of it.

    Attributes:
        minutes: of load.
        capacity_per_second: requests that a closed loop reached; 0 if it was not measured.
        rate: requests a second that were sent.
        sent: requests of the load.
        right: right answers, by question; those of slow clients included.
        wrong: wrong ones.
        explained: failures that had to be expected, by why.
        unexplained: failures that had not.
        faults: how often each was done.
        memory: of the server.
        dead_work_rows: rows that were run for clients that had left before.
        minutes_disturbed: in which other work took more than a quarter of the machine's cores.
    """

    minutes: float
    capacity_per_second: float
    rate: float
    sent: int
    right: dict[str, int]
    wrong: dict[str, int]
    explained: dict[str, int]
    unexplained: dict[str, int]
    faults: dict[str, int]
    memory: Growth
    dead_work_rows: float
    minutes_disturbed: float


def main(options: Options) -> int:
    """Prints what came of it; returns 1 if a target is missed."""
    found = sorted(options.models.glob("*/*/bundle.json"))
    if not found:
        raise SystemExit(f"models: got {options.models}, expected a model repository; `make demo` makes one")
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "models" / found[0].parents[1].name
        shutil.copytree(found[0].parent, model / "1")
        _make_first(model / "1")
        figures = soaked(options, model, Path(scratch))
    print(table(figures))
    if options.record:
        records.write(figures, RESULTS)
        print(RESULTS)
    found_missed = missed(figures)
    print(*found_missed, sep="\n")
    return int(bool(found_missed))


def load_versions(scene: Scene) -> None:
    """Versions come and go before memory is watched.

    Each leaves the allocator's arenas a little fuller than the one before it, until a dozen have been there; a leak
    would go on. In half an hour the faults load only eight.
    """
    for _ in range(VERSIONS):
        good_version(scene)
        removed_version(scene)


def soaked(options: Options, model: Path, folder: Path) -> Figures:
    """Starts the server, finds out what it can do, and soaks it."""
    settings = folder / "settings.toml"
    settings.write_text("batch_window_seconds = 0.0\n")
    arguments = ("--settings", str(settings), "--device", "cpu")
    with ServedProcess(model.parent, folder / "log", arguments) as server:
        ledger = Ledger()
        asked = questions(server.target, model / "1")
        scene = Scene(server, model, settings, ledger, asked)
        capacity = 0.0 if options.rate else capacity_of(scene, min(5.0, options.minutes * 6))
        rate = options.rate or LOAD * capacity
        if options.minutes >= GROWTH_MINUTES:
            load_versions(scene)
        load, samples = Load(server.target, asked, rate, ledger), Samples(server.pid, others(server.pid))
        started = time.monotonic()
        load.start()
        faults = go_wrong(scene, samples, started + options.minutes * 60, options.every)
        load.end()
        ledger.excuses += samples.others.excuses
        minutes = (time.monotonic() - started) / 60
        growth = samples.growth(started + WARM_UP * minutes * 60)
        dead = sum(value for name, value in server.metrics().items() if name.startswith("latentserve_dead_work_rows"))
    return Figures(
        minutes=minutes,
        capacity_per_second=capacity,
        rate=rate,
        sent=load.sent,
        right=dict(ledger.right),
        wrong=dict(ledger.wrong),
        explained=dict(ledger.explained()),
        unexplained=dict(ledger.unexplained()),
        faults=faults,
        memory=growth,
        dead_work_rows=dead,
        minutes_disturbed=samples.others.seconds_taken / 60,
    )


def capacity_of(scene: Scene, seconds: float) -> float:
    """Requests a second that clients reach who ask again when they are answered."""
    ledger = Ledger()
    load = Load(scene.server.target, scene.asked, math.inf, ledger)
    started = time.monotonic()
    load.start()
    time.sleep(seconds)
    load.end()
    return load.sent / (time.monotonic() - started)


def go_wrong(scene: Scene, samples: Samples, end: float, every: float) -> dict[str, int]:
    """One fault after another until the time is over; how often each was done."""
    done = dict.fromkeys(FAULTS, 0)
    names, due = list(FAULTS), time.monotonic() + every
    while (now := time.monotonic()) < end:
        if now < due or now > end - LATE_SECONDS:
            samples.take()
            time.sleep(max(0.0, min(1.0, due - now, end - now)) or 0.1)
            continue
        due += every
        name = names[sum(done.values()) % len(names)]
        done[name] += 1
        try:
            FAULTS[name](scene)
        except (Unexpected, LatentserveError, OSError) as error:
            scene.ledger.told.append(f"{name}: {error}")
    return done


def table(figures: Figures) -> str:
    """For people."""
    memory = figures.memory
    lines = [
        f"{figures.minutes:.1f} minutes at {figures.rate:.0f} requests/s (capacity {figures.capacity_per_second:.0f})",
        f"sent {figures.sent}, dead work {figures.dead_work_rows:g} rows",
        f"other work took the machine's cores for {figures.minutes_disturbed:.1f} minutes",
        *(f"  right  {count:>9}  {name}" for name, count in sorted(figures.right.items())),
        *(f"  WRONG  {count:>9}  {name}" for name, count in sorted(figures.wrong.items())),
        *(f"  failed {count:>9}  {why}" for why, count in sorted(figures.explained.items())),
        *(f"  UNEXPLAINED {count:>4}  {what}" for what, count in sorted(figures.unexplained.items())),
        *(f"  done   {count:>9}  {name}" for name, count in figures.faults.items()),
        f"memory {memory.start_mb:.0f} -> {memory.end_mb:.0f} MB in {memory.hours * 60:.0f} minutes after warm-up:"
        f" {memory.mb_per_hour:+.2f} MB/h (95 %: {memory.low:+.2f} to {memory.high:+.2f})",
    ]
    return "\n".join(lines)


def missed(figures: Figures) -> list[str]:
    """Targets that are missed."""
    found = []
    if figures.wrong:
        found.append(f"missed: {sum(figures.wrong.values())} wrong answers")
    if figures.unexplained:
        found.append(f"missed: {sum(figures.unexplained.values())} failures that nothing explains")
    quiet = figures.minutes_disturbed <= MOST_DISTURBED * figures.minutes
    if quiet and figures.minutes >= GROWTH_MINUTES and figures.memory.mb_per_hour > MOST_MB_PER_HOUR:
        found.append(f"missed: memory grows by {figures.memory.mb_per_hour:.2f} MB an hour")
    return found


def _make_first(folder: Path) -> None:
    """Its number must be that of its folder."""
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {"version": 1}))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.soak")))
