"""JPEGs a second: decoded whole or at a part of their size, their bits read twice or once; alone and served.

    python -m benchmarks.decoding.jpeg [--seconds 10]     two minutes on two cores

Read twice is how it was: Pillow decodes, and libjpeg is asked for its warnings beside it. Through the server: several
callers, one file a request, two models that differ in whether their rule lets large JPEGs be decoded at a part, and
the first of them served as it was.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from benchmarks.decoding.cost import least
from benchmarks.decoding.twice import twice
from benchmarks.processes.served import ServedProcess
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.client import Client
from latentserve.images import decode_image
from latentserve.inputs import ImageInput, Resize

SIZES = {"4,000 x 3,000": (4000, 3000), "640 x 480": (640, 480), "32 x 32": (32, 32)}
PHOTO = "4,000 x 3,000"
SIDE = 96
CALLERS = 4
MODELS = {"whole": False, "part": True}
BEFORE = "whole, read twice"
MOST_PIXELS = 10**8


@dataclass(frozen=True)
class Options:
    """Compares ways to decode JPEGs.

    Attributes:
        seconds: of load for each model.
    """

    seconds: float = 10.0


def main(options: Options) -> None:
    """Prints two tables."""
    print(
        "| JPEG, to 96 x 96 | whole, read twice, ms of CPU | whole, once | part, twice | part, once | times as fast |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, size in SIZES.items():
        print(f"| {name} | {' | '.join(cells(photo(*size)))} |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        served = images_per_second(Path(scratch), photo(*SIZES[PHOTO]), options.seconds)
    print(f"\n| {PHOTO} through the server, {CALLERS} callers | images/s | times |\n| --- | --- | --- |")
    for name, rate in served.items():
        print(f"| {name} | {rate:.1f} | {rate / served[BEFORE]:.2f} |")


def photo(width: int, height: int) -> bytes:
    """Smooth colours under the noise of a camera."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8))
    pixels = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-6, 7, pixels.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def cells(data: bytes) -> list[str]:
    """Milliseconds of CPU of the four ways, and how many times as fast the last is as the first."""
    times = 3 if len(data) > 10**6 else 300
    found = []
    for is_part in (False, True):
        given = ImageInput(SIDE, SIDE, 3, resize=Resize("crop", scaled=is_part))
        for reading in (twice, once):
            with reading():
                found.append(least(lambda given=given: decode_image(data, given, MOST_PIXELS), times))  # type: ignore[misc]
    return [*(f"{1e3 * seconds:.3g}" for seconds in found), f"{found[0] / found[-1]:.2f}"]


@contextmanager
def once() -> Iterator[None]:
    """As it is."""
    yield


def images_per_second(scratch: Path, data: bytes, seconds: float) -> dict[str, float]:
    """Of the model as it was served, and of models with both rules."""
    models, rates = scratch / "models", dict[str, float]()
    for name, is_part in MODELS.items():
        write_model(scratch, models, name, is_part)
    ways = {BEFORE: ("benchmarks.decoding.twice", "whole"), **{name: ("service", name) for name in MODELS}}
    for way, (module, model) in ways.items():
        with (
            ServedProcess(models, scratch / "server.log", module=module) as server,
            Client(server.target) as client,
        ):
            rates[way] = rate(lambda model=model, client=client: client.embed([data], model=model), seconds)  # type: ignore[misc]
    return rates


def rate(ask: Callable[[], object], seconds: float) -> float:
    """Answers a second to callers that ask again at once."""
    ask()
    ends, answers = time.monotonic() + seconds, [0] * CALLERS

    def caller(place: int) -> None:
        while time.monotonic() < ends:
            ask()
            answers[place] += 1

    threads = [threading.Thread(target=caller, args=(place,)) for place in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answers) / seconds


def write_model(scratch: Path, models: Path, name: str, is_part: bool) -> None:
    """A small VAE on digits, grey and 8 x 8: little to compute. Of its rule only this is changed."""
    run = scratch / "run"
    if not run.exists():
        call("training", "vae", "--data", "digits", "--smoke", "--run", str(run))
    call("export", str(run), "--to", str(models), "--name", name, "--report", "none", "--detectors", "mahalanobis")
    file = models / name / "1" / bundle.MANIFEST
    manifest = records.read(Manifest, file)
    assert isinstance(manifest.input, ImageInput)
    rule = replace(manifest.input.resize, scaled=is_part)
    records.write(replace(manifest, input=replace(manifest.input, resize=rule)), file)


def call(module: str, *arguments: str) -> None:
    """Runs one of our commands; its words go to standard error."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.decoding.jpeg"))
