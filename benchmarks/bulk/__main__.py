"""How fast a job is beside ONNX Runtime and decoding alone, how much memory it takes, and what kills leave of it.

    python -m benchmarks.bulk                                     2,000 photographs, a few minutes
    python -m benchmarks.bulk --images 200000 --kills 20          6 GB of disk, an hour

Photographs of 640 x 480 pixels are generated as JPEG files, and a MobileNetV3 (small, 224 pixels, random weights) is
imported, unless --bundle names another. The job and the same work without it (`benchmarks.bulk.alone`) run by turns.
Then one job is killed with SIGKILL at random moments and the same command is given again; its rows must be those of the
job that nobody killed, byte for byte. Memory is a process's largest resident set (VmHWM).
"""

from __future__ import annotations

import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import tyro

from benchmarks.results.large_data import peak_mib, photographs
from training.options import check_options

CALIBRATED_BY = 1000
"""Photographs that the bundle is imported with."""
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """A job beside the same work alone, and a job that is killed.

    Attributes:
        images: how many.
        rounds: of both by turns.
        kills: of one job.
        bundle: models/NAME/VERSION of images; default: one is imported.
        work: folder of photographs, models and outputs; what is there already stays.
        seed: of the moments of the kills.
    """

    images: int = 2_000
    rounds: int = 3
    kills: int = 5
    bundle: Path | None = None
    work: Path = Path("build/bulk")
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 1000), ("rounds", 1), ("kills", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected {least} or more")


@dataclass(frozen=True)
class Run:
    """One process of a job.

    Attributes:
        rate: images a second, as it says.
        peak_mib: its largest resident set.
        status: of its exit; negative: the signal that ended it.
        seconds: that it ran.
    """

    rate: float
    peak_mib: float
    status: int
    seconds: float


def main(options: Options) -> int:
    """Measures; returns the exit status."""
    check_options(options)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    photos = work / f"photos-{options.images}"
    photographs(photos, options.images)
    bundle = options.bundle or imported(work)
    few = photos / "000"
    part = job(bundle, few, fresh(work / "few.parquet"))
    rounds = []
    for _ in range(options.rounds):
        whole = job(bundle, photos, fresh(work / "whole.parquet"))
        rounds.append((whole, alone(bundle, photos)))
    told(options, part, rounds)
    return killed(options, bundle, photos, work, rounds[-1][0]) if options.kills else 0


def told(options: Options, part: Run, rounds: list[tuple[Run, float]]) -> None:
    """Prints what was measured."""
    print("| images a second: the job | ONNX Runtime and decoding alone | ratio | peak memory, MiB |")
    print("| ---: | ---: | ---: | ---: |")
    for run, rate in rounds:
        print(f"| {run.rate:,.0f} | {rate:,.0f} | {run.rate / rate:.2f} | {run.peak_mib:,.0f} |")
    ratio = statistics.median(run.rate for run, _ in rounds) / statistics.median(rate for _, rate in rounds)
    print(f"\nratio of the medians: {ratio:.2f}")
    print(f"peak memory of a job of 1,000 images: {part.peak_mib:,.0f} MiB, of {options.images:,}: see above")


def killed(options: Options, bundle: Path, photos: Path, work: Path, whole: Run) -> int:
    """Kills a job, gives the command again, and compares; returns the exit status."""
    out, chance = fresh(work / "killed.parquet"), random.Random(options.seed)
    starting = whole.seconds - options.images / whole.rate
    longest = starting + 2 * (whole.seconds - starting) / options.kills
    kills = 0
    while kills < options.kills:
        run = job(bundle, photos, out, kill_after=chance.uniform(0.2, longest))
        if run.status == 0:
            break
        kills += 1
    last = job(bundle, photos, out)
    expected, got = contents(work / "whole.parquet"), contents(out)
    sources = Counter(pq.read_table(out, columns=["source"])["source"].to_pylist())
    once = len(sources) == options.images and set(sources.values()) == {1}
    equal = expected == got
    print(f"\nkilled {kills} times: each of {options.images:,} images once: {once}; bytes as uninterrupted: {equal}")
    return 0 if once and equal and last.status == 0 else 1


def imported(work: Path) -> Path:
    """A bundle of a MobileNetV3 with random weights: the work is the same."""
    bundle = work / "models" / "bulk" / "1"
    if not bundle.exists():
        import torch
        import torchvision

        torch.manual_seed(0)
        weights = work / "mobilenet_v3_small.pth"
        torch.save(torchvision.models.mobilenet_v3_small().state_dict(), weights)
        photographs(work / "calibrating", CALIBRATED_BY)
        command = [sys.executable, "-m", "export", "import", f"torchvision:mobilenet_v3_small={weights}"]
        command += ["--data", f"folder:{work / 'calibrating'}", "--to", str(work / "models"), "--name", "bulk"]
        subprocess.run([*command, "--report", "none"], check=True, stdout=subprocess.DEVNULL)
    return bundle


def job(bundle: Path, photos: Path, out: Path, kill_after: float | None = None) -> Run:
    """Runs a job; kills it after so many seconds."""
    command = [sys.executable, "-m", "latentserve", "embed", str(photos), "--to", str(out), "--bundle", str(bundle)]
    began, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            peak = max(peak, peak_mib(process.pid))
            if kill_after is not None and time.monotonic() - began >= kill_after:
                process.kill()
        said = process.stderr.read()
    found = re.search(r"^([\d,]+) items in ([\d.]+) s", said, re.MULTILINE)
    rate = int(found[1].replace(",", "")) / max(float(found[2]), 0.1) if found else 0.0
    if process.returncode not in (0, -9):
        print(said, file=sys.stderr)
    return Run(rate, peak, process.returncode, time.monotonic() - began)


def alone(bundle: Path, photos: Path) -> float:
    """Images a second without a job."""
    command = [sys.executable, "-m", "benchmarks.bulk.alone", str(bundle), str(photos)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def fresh(out: Path) -> Path:
    """A name that nothing has: an earlier run's job is removed."""
    for file in files(out):
        file.unlink()
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Each file of a job."""
    return {file.name: file.read_bytes() for file in files(out)}


def files(out: Path) -> Iterator[Path]:
    """Of a job."""
    return iter(sorted(out.iterdir()) if out.exists() else [])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
