"""How much memory an import of many photographs takes, how fast it is, and what a kill in the middle costs.

    python -m benchmarks.results.large_data --images 100000 --work /tmp/large     4 GB of disk, a quarter of an hour
    python -m benchmarks.results.large_data --table                                what was recorded

Photographs of 640 x 480 pixels are generated as JPEG files. A MobileNetV3 (small, 224 pixels, random weights: the work
is the same) is imported with them. The process is killed with SIGKILL while it embeds, and the same command is given
again. Memory is the process's largest resident set (VmHWM).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
import tyro
from PIL import Image
from tqdm import tqdm

from latentserve import records
from training.options import check_options

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "large_data.json"
WIDTH, HEIGHT, COARSE = 640, 480, 24
LOOK_SECONDS = 0.2
KILL_AT = re.compile(r"training rows: +(\d+)%")


@dataclass(frozen=True)
class Options:
    """Imports many photographs, killed once and gone on with.

    Attributes:
        images: how many.
        work: folder of photographs, weights and models; what is there already stays.
        kill_at: percent of the training rows that are embedded when the process is killed.
        record: keep the figures in docs/results/large_data.json.
        table: print what was recorded, and do nothing else.
    """

    images: int = 2_000
    work: Path = Path("build/large")
    kill_at: int = 50
    record: bool = False
    table: bool = False

    def __post_init__(self) -> None:
        if self.images < 100:
            raise ValueError(f"images: got {self.images}, expected 100 or more")
        if not 0 <= self.kill_at <= 100:
            raise ValueError(f"kill_at: got {self.kill_at}, expected 0 to 100")


@dataclass(frozen=True)
class Attempt:
    """One process.

    Attributes:
        seconds: that it ran.
        peak_mib: its largest resident set.
        images_per_second: as its last lines of progress say, by what was done: decoding, training rows.
        found: rows that it found embedded already.
        status: exit status; negative: the signal that ended it.
    """

    seconds: float
    peak_mib: float
    images_per_second: dict[str, float]
    found: int
    status: int


@dataclass(frozen=True)
class LargeData:
    """What was measured.

    Attributes:
        images: photographs.
        pixel_mib: of all of them as rows.
        killed: the first process.
        resumed: the second.
    """

    images: int
    pixel_mib: float
    killed: Attempt
    resumed: Attempt


def main(options: Options) -> int:
    """Measures, or prints what was; returns the exit status."""
    check_options(options)
    if options.table:
        print(table(records.read(LargeData, RECORD)))
        return 0
    found = measure(options)
    print(table(found))
    if options.record:
        records.write(found, RECORD)
    return 0 if found.resumed.status == 0 else 1


def measure(options: Options) -> LargeData:
    """Generates what is missing, imports, kills, imports again."""
    work = options.work.resolve()
    photographs(work / "photos", options.images)
    weights = work / "mobilenet_v3_small.pth"
    if not weights.exists():
        torch.manual_seed(0)
        torch.save(torchvision.models.mobilenet_v3_small().state_dict(), weights)
    command = [sys.executable, "-m", "export", "import", f"torchvision:mobilenet_v3_small={weights}"]
    command += ["--data", f"folder:{work / 'photos'}", "--to", str(work / "models"), "--name", "large"]
    environment = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    killed = attempt([*command, "--report", "none"], environment, options.kill_at)
    resumed = attempt([*command, "--report", "none"], environment, None)
    return LargeData(options.images, options.images * 224 * 224 * 3 / 2**20, killed, resumed)


def photographs(folder: Path, num: int) -> None:
    """JPEG files of smooth colours with some noise, a thousand in each folder."""
    missing = [place for place in range(num) if not _path(folder, place).exists()]
    for thousand in range(0, num, 1000):
        _path(folder, thousand).parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        made = pool.map(partial(_photograph, folder), missing, chunksize=64)
        for _ in tqdm(made, desc="photographs", total=len(missing), unit=" images"):
            pass


def _path(folder: Path, place: int) -> Path:
    return folder / f"{place // 1000:03d}" / f"{place:06d}.jpg"


def _photograph(folder: Path, place: int) -> None:
    rng = np.random.default_rng(place)
    coarse = rng.integers(0, 256, (COARSE * HEIGHT // WIDTH, COARSE, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    new = _path(folder, place).with_suffix(".new")
    image.save(new, "JPEG", quality=90)
    new.replace(_path(folder, place))


def attempt(command: list[str], environment: dict[str, str], kill_at: int | None) -> Attempt:
    """Runs the import; kills it when so many percent of its training rows are embedded."""
    started, peak, printed = time.monotonic(), 0.0, b""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            printed += process.stderr.read() or b""
            peak = max(peak, peak_mib(process.pid))
            shown = KILL_AT.findall(printed[-2000:].decode(errors="replace"))
            if kill_at is not None and shown and int(shown[-1]) >= kill_at:
                process.send_signal(signal.SIGKILL)
        printed += process.stderr.read() or b""
    said = printed.decode(errors="replace")
    if process.returncode not in (0, -signal.SIGKILL):
        print(said[-2000:], file=sys.stderr)
    found = re.search(r"training rows: (\d+) of \d+ rows were embedded before", said)
    rates = {kind: _rate(said, kind) for kind in ("decoding", "training rows")}
    seconds = round(time.monotonic() - started, 1)
    return Attempt(seconds, round(peak), rates, int(found[1]) if found else 0, process.returncode)


def peak_mib(pid: int) -> float:
    """The largest resident set of a process; 0 if it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _rate(said: str, kind: str) -> float:
    """Images a second of the last line of progress, by its counts and its clock; 0 if there is none."""
    lines = re.findall(rf"{kind}: +\d+%[^\r\n]*?(\d+)/\d+ \[(?:(\d+):)?(\d+):(\d+)<", said)
    if not lines:
        return 0.0
    done, hours, minutes, seconds = (int(one or 0) for one in lines[-1])
    return round(done / max(1, 3600 * hours + 60 * minutes + seconds), 1)


def table(found: LargeData) -> str:
    """As Markdown."""
    lines = [
        f"{found.images:,} photographs of {WIDTH} x {HEIGHT}; as rows of 224 x 224 they would be"
        f" {found.pixel_mib:,.0f} MiB.",
        "",
        "| process | seconds | peak memory, MiB | decoded a second | embedded a second | found embedded |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in (("killed", found.killed), ("the same command again", found.resumed)):
        rates = " | ".join(f"{one.images_per_second[kind]:,.0f}" for kind in ("decoding", "training rows"))
        lines.append(f"| {name} | {one.seconds:,.0f} | {one.peak_mib:,.0f} | {rates} | {one.found:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
